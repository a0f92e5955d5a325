"""The evaluation protocol: local, base and new accuracy and their harmonic mean (FedTPG, Qiu et al. 2024)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean, harmonic_mean, pstdev
from typing import Literal, Protocol, TypeVar

import torch
from torch import Tensor

from promptfed.config import ACCURACY
from promptfed.errors import DataError
from promptfed.federation import Federation
from promptfed.intervals import mean_interval, wilson_interval
from promptfed.measures.base import Measure
from promptfed.measures.figures import PartTotals, Totals
from promptfed.measures.selection import Selection
from promptfed.method import Method
from promptfed.own_answers import OwnAnswers
from promptfed.own_figures import own_accuracies, own_figures
from promptfed.scores import NO_CLASS, predicted
from promptfed.scoring import Examples, alike, joined, part_scores, totals_of
from promptfed.scoring_job import ScoringJob
from promptfed.truth import truth_of
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

T = TypeVar("T")


@dataclass(frozen=True)
class Evaluation:
    """``figures``, and the scores of each client that holds test images.

    ``answers``: what was predicted on their own test examples; None where the examples are elsewhere.
    """

    figures: Metrics
    local: dict[int, ClientScore]
    answers: OwnAnswers | None = field(default=None, compare=False, repr=False)

    @classmethod
    def of(
        cls,
        name: str,
        local: dict[int, ClientScore],
        base: Score,
        new: Score | None,
        domains: Mapping[str, Score],
        measures: Mapping[str, Mapping[str, float | None]] | None = None,
        tested: Mapping[int, Split] | None = None,
    ) -> Evaluation:
        """From scores to figures with their intervals; the harmonic mean where there are local and new accuracies.

        ``measures``: the figures of those besides accuracy. ``tested``: the clients' test examples, where they are at
        hand: clients may share some, and the intervals count each example once.
        """
        choosing = {client: score.local for client, score in local.items() if score.local is not None}
        accuracies, everywhere = list(choosing.values()), [score.local_all for score in local.values()]
        parts = {
            "local": fmean(accuracies) if accuracies else None,
            "base": base.accuracy,
            "new": None if new is None else new.accuracy,
        }
        present = [part for part in parts.values() if part is not None]
        items = {"local": count_items(choosing, local, tested), "local_all": count_items(local, local, tested)}
        items["base"] = base.items
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


def count_items(clients: Iterable[int], scores: Mapping[int, ClientScore], tested: Mapping[int, Split] | None) -> int:
    """Count the test examples of ``clients``, once each where ``tested`` holds them; else all that ``scores`` count."""
    if tested is None:
        return sum(scores[client].items for client in clients)
    return len({id(item) for client in clients for item in tested[client].items})  # splits share objects


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
    return Judgement(top1_accuracy(logits, candidates, split), totals_of(measures or {}, logits, split, among))


def top1_accuracy(logits: Tensor, candidates: Tensor, split: Split) -> float:
    """Return the share of ``split`` for which the best of ``logits`` ``(n, candidates)`` is the example's own label.

    Where several classes fit an example, it is one that fits best. An example without an answer is not right.
    """
    best = predicted(logits).cpu()
    return split.is_right(candidates[best].where(best != NO_CLASS, NO_CLASS)).double().mean().item()


def local_accuracy(
    method: Method, prompt: ClientPrompt, task: FederatedTask, data: ClientData, part: Literal["val", "test"]
) -> float:
    """One client's accuracy on its own images among its own classes, with its own prompt."""
    split = data.val if part == "val" else data.test
    return accuracy(method, prompt, task.base_classes, split, data.classes)


def has_choice(data: ClientData) -> bool:
    """Whether ``data`` has two classes or more: of one class every image is right, whatever the prompt says."""
    return len(data.classes) > 1


def own_examples(task: FederatedTask, part: Literal["val", "test"]) -> Examples:
    """Return the clients' own examples of that part, each image once; clients without any are left out."""
    splits = {data.client: data.val if part == "val" else data.test for data in task.clients}
    return Examples.of((), {client: split for client, split in splits.items() if len(split)})


def mean_local_accuracy(
    method: Method,
    prompts: Mapping[int, ClientPrompt],
    task: FederatedTask,
    part: Literal["val", "test"],
    examples: Examples | None = None,
) -> float:
    """Mean over clients that hold images of that part and have two classes or more; NaN if none holds any.

    If all of them have one class each, the choice is among all base classes. ``examples`` are those of
    ``own_examples``, which who asks often keeps.
    """
    return mean_local_figure(method, prompts, task, part, examples, Selection.of(ACCURACY))


def mean_local_figure(
    method: Method,
    prompts: Mapping[int, ClientPrompt],
    task: FederatedTask,
    part: Literal["val", "test"],
    examples: Examples | None,
    selection: Selection,
) -> float:
    """As ``mean_local_accuracy``, by the measure of ``selection``."""
    examples = own_examples(task, part) if examples is None else examples
    holders = [data for data in task.clients if data.client in examples.own]
    among: dict[int, Sequence[int]] = {data.client: data.classes for data in holders if has_choice(data)}
    among = among or {data.client: range(len(task.base_classes)) for data in holders}
    if selection.is_accuracy:
        each = own_accuracies(method, prompts, task.base_classes, examples, among)
    else:
        each = own_figures(method, prompts, task.base_classes, examples, among, selection.measure)
    return fmean(each.values()) if each else float("nan")


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
    tested: dict[int, Split] = {}  # of many clients, the rest of the data are let go
    among: dict[int, Sequence[int]] = {}
    for data in task.clients:
        if len(data.test):
            tested[data.client] = data.test
            if has_choice(data):
                among[data.client] = data.classes
    common = (task.base_test, *task.domain_tests.values())
    examples = Examples.of(common, tested)
    new_part = task.classes_of_new, task.new_test
    answers = OwnAnswers(len(task.base_classes))
    parts = examples, among, new_part, measures or {}
    scores = part_scores(method, prompts, task.base_classes, *parts, answers.add)

    def of_prompts(values: Mapping[int, T]) -> list[T]:
        return list(values.values())[: 1 if scores.different == 1 else None]

    means = [fmean(values) for values in zip(*of_prompts(scores.common), strict=True)]
    base, *domains = (Score(mean, len(split)) for mean, split in zip(means, common, strict=True))
    local = {
        client: ClientScore(scores.own.get(client), scores.own_all[client], len(split))
        for client, split in tested.items()
    }
    new = Score(fmean(of_prompts(scores.new)), len(task.new_test)) if len(task.new_test) else None
    totals = PartTotals(
        {client: scores.totals["own"].get(client, {}) for client in among},
        {client: scores.totals["all"][client] for client in tested},
        of_prompts(scores.totals["base"]),
        of_prompts(scores.totals["new"]),
    )
    by_domain = dict(zip(task.domain_tests, domains, strict=True))
    evaluation = Evaluation.of(method.name, local, base, new, by_domain, totals.figures(measures or {}), tested)
    return replace(evaluation, answers=answers)


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
        self._validation: Examples | None = None

    def validate(self, federation: Federation, state: FederationState) -> float:
        if self._validation is None:
            self._validation = own_examples(self.task, "val")
        prompts = federation.prompts(state)
        return mean_local_accuracy(federation.method, prompts, self.task, "val", self._validation)

    def evaluate(self, federation: Federation, state: FederationState) -> Evaluation:
        return evaluate(federation.method, federation.prompts(state), self.task, self.measures)


@dataclass(frozen=True)
class ValidationFigures:
    """Figures on the clients' validation images: what a choice may be based on.

    They are accuracies in 0..1, or those of the measure of option ``selection``. ``base``: all clients' validation
    images among all base classes; ``hm``: harmonic mean of ``local`` and ``base`` if they are shares, else their mean.
    """

    local: float
    base: float
    hm: float


def validate(method: Method, prompts: Mapping[int, ClientPrompt], task: FederatedTask) -> ValidationFigures:
    """Figures of what each client deploys, without a look at test images. Raises DataError if nobody can validate."""
    examples = own_examples(task, "val")
    if not examples.own:
        what = f"no client holds validation {method.setup.model.examples}"
        raise DataError(f"{what}, so nothing can be chosen: raise --set task.val_shots")
    selection = Selection.of(method.setup.selection)
    local = mean_local_figure(method, prompts, task, "val", examples, selection)
    groups = alike(prompts, prompts)
    jobs = [ScoringJob(prompts[clients[0]], task.base_classes, examples.split) for clients in groups]
    truth = truth_of(selection.measure, examples.split, len(task.base_classes))
    each = [selection.measure.figure(scores, truth) for scores in method.scores(jobs)]
    counts = [len(clients) if len(groups) > 1 else 1 for clients in groups]
    base = fmean(value for value, count in zip(each, counts, strict=True) for _ in range(count))
    return ValidationFigures(local, base, selection.together([local, base]))


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
        logits = method.client_logits(prompt, classes, all_examples).cpu()  # where labels and rows are
        right.append(all_examples.is_right(predicted(logits)).double())
        totals.append([totals_of(measures or {}, logits, all_examples, rows=part_rows) for part_rows in rows])
    return RowScores(right, rows, totals)
