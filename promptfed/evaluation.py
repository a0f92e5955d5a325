"""The evaluation protocol: local, base and new accuracy and their harmonic mean (FedTPG, Qiu et al. 2024)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, harmonic_mean, pstdev
from typing import Literal, Protocol

import torch
from torch import Tensor

from promptfed.errors import DataError
from promptfed.examples.base import Item
from promptfed.federation import Federation
from promptfed.intervals import mean_interval, wilson_interval
from promptfed.measures.base import Measure, truth_among
from promptfed.measures.figures import PartTotals, Totals
from promptfed.method import Method
from promptfed.scores import NO_CLASS, predicted
from promptfed.types import (
    ClientData,
    ClientPrompt,
    ClientScore,
    FederatedTask,
    FederationState,
    Metrics,
    Score,
    Split,
)


@dataclass(frozen=True)
class Evaluation:
    """``figures``, and the scores of each client that holds test images."""

    figures: Metrics
    local: dict[int, ClientScore]

    @classmethod
    def of(
        cls,
        name: str,
        local: dict[int, ClientScore],
        base: Score,
        new: Score | None,
        domains: Mapping[str, Score],
        measures: Mapping[str, Mapping[str, float | None]] | None = None,
    ) -> Evaluation:
        """From scores to figures with their intervals; the harmonic mean where there are local and new accuracies.

        ``measures``: the figures of those besides accuracy.
        """
        choosing = {client: score.local for client, score in local.items() if score.local is not None}
        accuracies, everywhere = list(choosing.values()), [score.local_all for score in local.values()]
        parts = {
            "local": fmean(accuracies) if accuracies else None,
            "base": base.accuracy,
            "new": None if new is None else new.accuracy,
        }
        present = [part for part in parts.values() if part is not None]
        items = {"local": sum(local[client].items for client in choosing)}
        items |= {"local_all": sum(score.items for score in local.values()), "base": base.items}
        means = {"local": accuracies, "local_all": everywhere}
        intervals = {key: mean_interval(each, items[key]) for key, each in means.items()}
        intervals |= {key: wilson_interval(s.accuracy, s.items) for key, s in (("base", base), ("new", new)) if s}
        figures = Metrics(
            name=name,
            local=parts["local"],
            local_std=pstdev(accuracies) if accuracies else None,
            local_all=fmean(everywhere) if everywhere else None,
            local_all_std=pstdev(everywhere) if everywhere else None,
            base=base.accuracy,
            new=parts["new"],
            hm=harmonic_mean(present) if len(present) == len(parts) else None,
            domains={domain: score.accuracy for domain, score in domains.items()},
            one_class=tuple(client for client in local if client not in choosing),
            intervals={key: ends for key, ends in intervals.items() if ends is not None},
            items=items | ({} if new is None else {"new": new.items}),
            domain_intervals={d: wilson_interval(score.accuracy, score.items) for d, score in domains.items()},
            domain_items={domain: score.items for domain, score in domains.items()},
            measures=dict(measures or {}),
        )
        return cls(figures, local)


@dataclass(frozen=True)
class Judgement:
    """How a prompt does on a set of examples: its ``accuracy``, and the ``totals`` of other measures."""

    accuracy: float
    totals: Totals = field(default_factory=dict)


def accuracy(
    method: Method,
    prompt: ClientPrompt,
    classes: Sequence[str],
    split: Split,
    among: Sequence[int] | None = None,
) -> float:
    """Fraction of ``split`` (labels index ``classes``) classified right, the choice being ``among`` some or all."""
    return judge(method, prompt, classes, split, among).accuracy


def judge(
    method: Method,
    prompt: ClientPrompt,
    classes: Sequence[str],
    split: Split,
    among: Sequence[int] | None = None,
    measures: Mapping[str, Measure] | None = None,
) -> Judgement:
    """As ``accuracy``, with the totals of ``measures`` from the same scores."""
    candidates = torch.tensor(range(len(classes)) if among is None else among)
    logits = method.client_logits(prompt, [classes[i] for i in candidates.tolist()], split)
    truth = truth_among(split.labels, among) if measures else split.labels
    totals = {name: measure.total(logits, truth) for name, measure in (measures or {}).items() if len(split)}
    return Judgement(top1_accuracy(logits, candidates, split), totals)


def top1_accuracy(logits: Tensor, candidates: Tensor, split: Split) -> float:
    """Return the share of ``split`` for which the best of ``logits`` ``(n, candidates)`` is the example's own label.

    An example without an answer is not right.
    """
    best = predicted(logits).cpu()
    return ((candidates[best] == split.labels) & (best != NO_CLASS)).double().mean().item()


def local_accuracy(
    method: Method, prompt: ClientPrompt, task: FederatedTask, data: ClientData, part: Literal["val", "test"]
) -> float:
    """One client's accuracy on its own images among its own classes, with its own prompt."""
    split = data.val if part == "val" else data.test
    return accuracy(method, prompt, task.base_classes, split, data.classes)


def has_choice(data: ClientData) -> bool:
    """Whether ``data`` has two classes or more: of one class every image is right, whatever the prompt says."""
    return len(data.classes) > 1


def mean_local_accuracy(
    method: Method, prompts: Mapping[int, ClientPrompt], task: FederatedTask, part: Literal["val", "test"]
) -> float:
    """Mean over clients that hold images of that part and have two classes or more; NaN if none holds any.

    If all of them have one class each, the choice is among all base classes.
    """
    holders = [data for data in task.clients if len(data.val if part == "val" else data.test)]
    choosing = [data for data in holders if has_choice(data)]
    if choosing:
        return fmean(local_accuracy(method, prompts[data.client], task, data, part) for data in choosing)
    splits = {data.client: data.val if part == "val" else data.test for data in holders}
    each = [accuracy(method, prompts[client], task.base_classes, split) for client, split in splits.items()]
    return fmean(each) if each else float("nan")


def evaluate(
    method: Method,
    prompts: Mapping[int, ClientPrompt],
    task: FederatedTask,
    measures: Mapping[str, Measure] | None = None,
) -> Evaluation:
    """Test figures of what each client deploys.

    local: each client on its own classes, mean over the clients that have two or more. local_all: each client's own
    test images among all base classes. base: all base classes together. new: classes no client ever saw. domains: base
    classes in each domain. Where clients deploy different prompts, base, new and domains are means over their prompts;
    where all deploy the same, they are that one's. ``measures`` are those besides accuracy, with the same parts except
    domains.
    """
    tested = {data.client: data for data in task.clients if len(data.test)}
    different = unique_prompts(prompts)
    row = {client: number if len(different) > 1 else 0 for number, client in enumerate(prompts)}

    splits = [task.base_test, *task.domain_tests.values(), *(data.test for data in tested.values())]
    scored = rows_right(method, different, task.base_classes, splits, measures)
    right, rows, first = scored.right, scored.rows, 1 + len(task.domain_tests)
    means = [fmean(flags[rows_of_part].mean().item() for flags in right) for rows_of_part in rows[:first]]
    base, *domains = (Score(mean, len(split)) for mean, split in zip(means, splits, strict=False))

    local: dict[int, ClientScore] = {}
    own_totals: dict[int, Totals] = {}
    all_totals: dict[int, Totals] = {}
    for number, (client, data) in enumerate(tested.items(), first):
        own_accuracy = None
        if has_choice(data):
            score = judge(method, prompts[client], task.base_classes, data.test, data.classes, measures)
            own_accuracy, own_totals[client] = score.accuracy, score.totals
        all_totals[client] = scored.totals[row[client]][number]
        local[client] = ClientScore(own_accuracy, right[row[client]][rows[number]].mean().item(), len(data.test))
    new, new_totals = None, []
    if len(task.new_test):
        each = [judge(method, prompt, task.new_classes, task.new_test, None, measures) for prompt in different]
        new, new_totals = (
            Score(fmean(judgement.accuracy for judgement in each), len(task.new_test)),
            [judgement.totals for judgement in each],
        )
    totals = PartTotals(own_totals, all_totals, [of_prompt[0] for of_prompt in scored.totals], new_totals)
    by_domain = dict(zip(task.domain_tests, domains, strict=True))
    return Evaluation.of(method.name, local, base, new, by_domain, totals.figures(measures or {}))


class Evaluator(Protocol):
    """Who judges what a federation has reached: where the data is, there it must happen."""

    def validate(self, federation: Federation, state: FederationState) -> float:
        """Mean accuracy of the clients on their own validation data."""
        ...

    def evaluate(self, federation: Federation, state: FederationState) -> Evaluation:
        """Test figures of what each client deploys."""
        ...


class LocalEvaluator:
    """Judges in this process, which holds all the data of ``task``."""

    def __init__(self, task: FederatedTask, measures: Mapping[str, Measure] | None = None) -> None:
        self.task, self.measures = task, measures or {}

    def validate(self, federation: Federation, state: FederationState) -> float:
        return mean_local_accuracy(federation.method, federation.prompts(state), self.task, "val")

    def evaluate(self, federation: Federation, state: FederationState) -> Evaluation:
        return evaluate(federation.method, federation.prompts(state), self.task, self.measures)


@dataclass(frozen=True)
class ValidationFigures:
    """Accuracies in 0..1 on the clients' validation images: what a choice may be based on.

    ``base``: all clients' validation images among all base classes; ``hm``: harmonic mean of ``local`` and ``base``.
    """

    local: float
    base: float
    hm: float


def validate(method: Method, prompts: Mapping[int, ClientPrompt], task: FederatedTask) -> ValidationFigures:
    """Figures of what each client deploys, without a look at test images. Raises DataError if nobody can validate."""
    splits = [data.val for data in task.clients if len(data.val)]
    if not splits:
        raise DataError("no client holds validation images, so nothing can be chosen: raise --set task.val_shots")
    local = mean_local_accuracy(method, prompts, task, "val")
    everyone, _ = joined(splits)
    base = fmean(accuracy(method, prompt, task.base_classes, everyone) for prompt in unique_prompts(prompts))
    return ValidationFigures(local, base, harmonic_mean([local, base]))


def judge_parts(
    method: Method,
    prompt: ClientPrompt,
    classes: Sequence[str],
    splits: Sequence[Split],
    measures: Mapping[str, Measure] | None = None,
) -> list[Judgement]:
    """As ``judge``, on each of ``splits``, which may overlap: every image is scored once."""
    scored = rows_right(method, [prompt], classes, splits, measures)
    return [
        Judgement(scored.right[0][part_rows].mean().item(), totals)
        for part_rows, totals in zip(scored.rows, scored.totals[0], strict=True)
    ]


@dataclass(frozen=True)
class RowScores:
    """``right``: for each prompt, 1.0 or 0.0 for every image of some splits together; ``rows``: those of each split.

    ``totals``: for each prompt, for each split, those of measures besides accuracy.
    """

    right: list[Tensor]
    rows: list[Tensor]
    totals: list[list[Totals]]


def rows_right(
    method: Method,
    prompts: Sequence[ClientPrompt],
    classes: Sequence[str],
    splits: Sequence[Split],
    measures: Mapping[str, Measure] | None = None,
) -> RowScores:
    """Score every image of ``splits``, and encode every class name, once a prompt, whatever the number of splits."""
    all_examples, rows = joined(splits)
    right, totals = [], []
    for prompt in prompts:
        logits = method.client_logits(prompt, classes, all_examples)
        right.append((predicted(logits).cpu() == all_examples.labels).double())
        totals.append([_totals(logits, all_examples.labels, part_rows, measures or {}) for part_rows in rows])
    return RowScores(right, rows, totals)


def _totals(logits: Tensor, labels: Tensor, rows: Tensor, measures: Mapping[str, Measure]) -> Totals:
    """Those of some ``rows``; none for no rows."""
    if not measures or not len(rows):
        return {}
    return {name: measure.total(logits[rows], labels[rows]) for name, measure in measures.items()}


def joined(splits: Sequence[Split]) -> tuple[Split, list[Tensor]]:
    """One split with every image of ``splits`` once, and the rows of each of them in it."""
    if len(splits) == 1:
        return splits[0], [torch.arange(len(splits[0]))]
    places: dict[int, int] = {}  # items are few objects that several splits share
    items: list[Item] = []
    labels: list[int] = []
    rows: list[Tensor] = []
    for split in splits:
        for item, label in zip(split.items, split.labels.tolist(), strict=True):
            if id(item) not in places:
                places[id(item)] = len(items)
                items.append(item)
                labels.append(label)
        rows.append(torch.tensor([places[id(item)] for item in split.items], dtype=torch.int64))
    return Split(tuple(items), torch.tensor(labels, dtype=torch.int64)), rows


def unique_prompts(prompts: Mapping[int, ClientPrompt]) -> list[ClientPrompt]:
    """Return the prompts without repetition of the very same one; all of them as soon as any is personal."""
    values = list(prompts.values())
    is_same = all(p.shared is values[0].shared and not p.is_personal for p in values)
    return values[:1] if is_same else values
