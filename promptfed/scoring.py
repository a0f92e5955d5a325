"""What many clients deploy, scored together: the same prompt once, each image once, however many clients have them."""

from __future__ import annotations

import hashlib
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from promptfed.examples.base import Item
from promptfed.measures.base import Measure
from promptfed.measures.figures import Totals
from promptfed.method import Method
from promptfed.prompt_state import PromptState
from promptfed.scores import NO_CLASS, predicted
from promptfed.scoring_job import ScoringJob
from promptfed.truth import truth_of
from promptfed.types import ClientPrompt, Split

MOST_SCORES = 2**22
"""Scores of clients' own examples that one job asks for, and candidates that are compared at once."""


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


@dataclass(frozen=True, eq=False)
class Examples:
    """Examples that all prompts are tested on, and clients' own, each once.

    Attributes:
        split: All of them; those for all prompts come first.
        common: The rows of each split that all prompts are tested on.
        rows: Client -> the rows of its own examples.
        own: Client -> its own examples.
    """

    split: Split
    common: Sequence[Tensor]
    rows: Mapping[int, Tensor]
    own: Mapping[int, Split]

    @classmethod
    def of(cls, common: Sequence[Split], own: Mapping[int, Split]) -> Examples:
        """Join splits."""
        split, rows = joined([*common, *own.values()])
        return cls(split, rows[: len(common)], dict(zip(own, rows[len(common) :], strict=True)), own)

    @property
    def first(self) -> int:
        """Return the number of examples that all prompts are tested on."""
        return max((int(rows.max()) + 1 for rows in self.common if len(rows)), default=0)


def alike(prompts: Mapping[int, ClientPrompt], clients: Iterable[int]) -> list[list[int]]:
    """Return ``clients`` in groups that deploy the same prompt by value, in the order of the first of each."""
    groups: defaultdict[tuple[object, ...], list[int]] = defaultdict(list)
    last, last_digest = None, b""
    for client in clients:
        prompt = prompts[client]
        if prompt.shared is not last:
            last, last_digest = prompt.shared, digest(prompt.shared)
        own = (digest(prompt.personal), digest(prompt.tuned), prompt.alpha, prompt.space) if prompt.is_personal else ()
        groups[(last_digest, *own)].append(client)
    return list(groups.values())


def digest(state: PromptState) -> bytes:
    """Return a hash of names, types, shapes and values."""
    if not len(state):
        return b""
    content = hashlib.blake2b(digest_size=32)
    for name, tensor in state.items():
        content.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        content.update(tensor.numpy().data if tensor.numel() else b"")
    return content.digest()


@dataclass(frozen=True, eq=False)
class Reading:
    """One job, and where in its scores those of clients' own examples stand.

    Attributes:
        job: What is scored.
        clients: Whose own examples are among those of the job.
        places: The rows of their examples among those of the scores, client after client.
        columns: The base classes ``(classes,)`` of the scores, in rising order.
    """

    job: ScoringJob
    clients: Sequence[int]
    places: Tensor
    columns: Tensor


class Reader:
    """Makes the jobs for one method: few of them where prompts are the same, and scores do not depend on other classes.

    Args:
        method: Who scores.
        classes: The names of the base classes.
        examples: What is scored.
    """

    def __init__(self, method: Method, classes: Sequence[str], examples: Examples) -> None:
        self.method, self.classes, self.examples = method, tuple(classes), examples
        self._names: dict[tuple[int, ...], tuple[str, ...]] = {}

    def own(
        self, prompt: ClientPrompt, clients: Sequence[int], among: Mapping[int, Sequence[int]]
    ) -> Iterator[Reading]:
        """Yield readings of the own examples of ``clients``, who all deploy ``prompt``, ``among`` their own classes."""
        if not self.method.scores_apart:
            for client in clients:
                yield self._of_one(prompt, client, among[client])
            return
        for some in self._batches(clients):
            classes = tuple(sorted({k for client in some for k in among[client]}))
            if len(some) == 1 and not self.method.reads_texts_only:
                yield self._of_one(prompt, some[0], classes)
            else:
                yield self._of_some(prompt, some, classes, torch.empty(0, dtype=torch.int64))

    def everything(self, prompt: ClientPrompt, clients: Sequence[int]) -> Iterator[Reading]:
        """Yield readings among all classes: the first has the common examples, all have some of ``clients``' own."""
        rows, classes = torch.arange(self.examples.first), tuple(range(len(self.classes)))
        for some in self._batches(clients) if clients else [()]:
            yield self._of_some(prompt, some, classes, rows)
            rows = rows[:0]

    def _of_one(self, prompt: ClientPrompt, client: int, classes: Sequence[int]) -> Reading:
        """Return the reading of one client's examples as the split that they are, whose features may be at hand."""
        split = self.examples.own[client]
        job = ScoringJob(prompt, self._names_of(tuple(classes)), split)
        return Reading(job, (client,), torch.arange(len(split)), torch.tensor(classes))

    def _of_some(
        self, prompt: ClientPrompt, clients: Sequence[int], classes: tuple[int, ...], common: Tensor
    ) -> Reading:
        own = torch.cat([common[:0], *(self.examples.rows[client] for client in clients)])
        rows = torch.cat([common, own]).unique()
        part = None if len(rows) == len(self.examples.split) else rows
        job = ScoringJob(prompt, self._names_of(classes), self.examples.split, part)
        return Reading(job, tuple(clients), torch.searchsorted(rows, own), torch.tensor(classes))

    def _names_of(self, classes: tuple[int, ...]) -> tuple[str, ...]:
        if classes not in self._names:
            self._names[classes] = tuple(self.classes[k] for k in classes)
        return self._names[classes]

    def _batches(self, clients: Sequence[int]) -> Iterator[Sequence[int]]:
        """Part ``clients`` so that the scores of each part's own examples fit into memory."""
        most, count = max(1, MOST_SCORES // len(self.classes)), 0
        batch: list[int] = []
        for client in clients:
            size = len(self.examples.rows[client])
            if batch and count + size > most:
                yield batch
                batch, count = [], 0
            batch.append(client)
            count += size
        if batch:
            yield batch


Answer = Callable[[Tensor], None]
"""What is done with the scores of a job."""


def ask(method: Method, jobs: Iterable[tuple[ScoringJob, Answer]]) -> None:
    """Have ``method`` score all ``jobs``, and give the scores of each to what stands beside it."""
    answers: deque[Answer] = deque()

    def in_turn() -> Iterator[ScoringJob]:
        for job, answer in jobs:
            answers.append(answer)
            yield job

    for scores in method.scores(in_turn()):
        answers.popleft()(scores)


def right_among_own(
    scores: Tensor, reading: Reading, among: Mapping[int, Sequence[int]], own: Mapping[int, Split]
) -> dict[int, Tensor]:
    """Return client -> for each of its own examples 1.0 if the best class ``among`` its own is the right one, else 0.0.

    Args:
        scores: Those of the reading's job, ``(rows, classes)``.
        reading: Whose examples these are.
        among: Client -> its own classes in rising order, at least one.
        own: Client -> its examples.
    """
    clients = [client for client in reading.clients if client in among]
    sizes = [len(own[client]) for client in reading.clients]
    chosen = [k for k, client in enumerate(reading.clients) if client in among]
    parts = reading.places.split(sizes)
    if not clients:
        return {}
    width = max(len(among[client]) for client in clients)
    classes = torch.tensor([[*among[client], *[NO_CLASS] * (width - len(among[client]))] for client in clients])
    columns = torch.searchsorted(reading.columns, classes.clamp(min=0)).to(scores.device)
    places = torch.cat([parts[k] for k in chosen]).to(scores.device)
    sizes = [sizes[k] for k in chosen]
    whose = torch.arange(len(clients)).repeat_interleave(torch.tensor(sizes))
    choices = [torch.empty(0, dtype=torch.int64)]
    for some in torch.arange(len(whose)).split(max(1, MOST_SCORES // width)):
        theirs, candidates = whose[some], classes[whose[some]]
        values = scores[places[some.to(scores.device)][:, None], columns[theirs.to(scores.device)]]
        best = predicted(values.masked_fill((candidates == NO_CLASS).to(scores.device), -torch.inf)).cpu()
        choice = candidates.gather(1, best.clamp(min=0)[:, None])[:, 0]
        choices.append(choice.where(best != NO_CLASS, NO_CLASS))
    parts = torch.cat(choices).split(sizes)
    return {client: own[client].is_right(part).double() for client, part in zip(clients, parts, strict=True)}


@dataclass
class PartScores:
    """What evaluation needs of every client's prompt.

    Attributes:
        different: How many prompts are different.
        common: Client -> the accuracy of its prompt on each split that all prompts are tested on; NaN for none.
        own: Client -> its accuracy on its own examples among its own classes, if it has two or more.
        own_all: Client -> its accuracy on its own examples among all classes.
        new: Client -> the accuracy of its prompt on new classes.
        totals: The measures of the first common split ("base"), and of "own", "all" (``own_all``) and "new".
    """

    different: int = 0
    common: dict[int, list[float]] = field(default_factory=dict)
    own: dict[int, float] = field(default_factory=dict)
    own_all: dict[int, float] = field(default_factory=dict)
    new: dict[int, float] = field(default_factory=dict)
    totals: dict[str, dict[int, Totals]] = field(default_factory=lambda: {p: {} for p in ("base", "own", "all", "new")})


def part_scores(
    method: Method,
    prompts: Mapping[int, ClientPrompt],
    classes: Sequence[str],
    examples: Examples,
    among: Mapping[int, Sequence[int]],
    new: tuple[Sequence[str], Split],
    measures: Mapping[str, Measure],
    keep: Callable[[int, Split, Tensor], None] | None = None,
) -> PartScores:
    """Return what each client's prompt scores on all parts.

    Args:
        method: Who scores.
        prompts: What each client deploys.
        classes: The names of the base classes.
        examples: Those that all prompts are tested on, the base classes' first, and clients' own.
        among: Client -> its own classes, of the clients with two or more.
        new: The names and examples of new classes.
        measures: Those besides accuracy.
        keep: Is given each client with its own examples and their scores among all classes.
    """
    result, reader = PartScores(), Reader(method, classes, examples)
    shared = Split(examples.split.items[: examples.first], examples.split.labels[: examples.first])

    def jobs() -> Iterator[tuple[ScoringJob, Answer]]:
        for clients in alike(prompts, prompts):
            result.different += 1
            prompt, testers = prompts[clients[0]], [client for client in clients if client in examples.own]
            for number, reading in enumerate(reader.everything(prompt, testers)):
                yield reading.job, partial(keep_all, reading, clients if number == 0 else ())
            if not method.scores_apart:
                for reading in reader.own(prompt, [client for client in testers if client in among], among):
                    yield reading.job, partial(keep_own, reading)
            if len(new[1]):
                yield ScoringJob(prompt, new[0], new[1]), partial(keep_new, clients)

    def keep_all(reading: Reading, clients: Sequence[int], scores: Tensor) -> None:
        best = predicted(scores).cpu()
        if clients:
            right = shared.is_right(best[: examples.first]).double()
            accuracies = [right[rows].mean().item() for rows in examples.common]
            totals = totals_of(measures, scores, examples.split, rows=examples.common[0])
            result.common.update((client, accuracies) for client in clients)
            result.totals["base"].update((client, totals) for client in clients)
        for client, places in places_of(reading, examples.own):
            own = examples.own[client]
            result.own_all[client] = own.is_right(best[places]).double().mean().item()
            theirs = scores[places.to(scores.device)] if measures or keep else scores
            result.totals["all"][client] = totals_of(measures, theirs, own)
            if keep is not None:
                keep(client, own, theirs)
        if method.scores_apart:
            keep_own(reading, scores)

    def keep_own(reading: Reading, scores: Tensor) -> None:
        right = right_among_own(scores, reading, among, examples.own)
        result.own.update((client, flags.mean().item()) for client, flags in right.items())
        if measures:
            result.totals["own"] |= own_totals(measures, scores, reading, among, examples.own)

    def keep_new(clients: Sequence[int], scores: Tensor) -> None:
        accuracy = new[1].is_right(predicted(scores).cpu()).double().mean().item()
        totals = totals_of(measures, scores, new[1])
        result.new.update((client, accuracy) for client in clients)
        result.totals["new"].update((client, totals) for client in clients)

    ask(method, jobs())
    return result


def places_of(reading: Reading, own: Mapping[int, Split]) -> Iterator[tuple[int, Tensor]]:
    """Yield each client of ``reading`` and the rows of its ``own`` examples among those of the scores."""
    sizes = [len(own[client]) for client in reading.clients]
    return zip(reading.clients, reading.places.split(sizes), strict=True)


def own_totals(
    measures: Mapping[str, Measure],
    scores: Tensor,
    reading: Reading,
    among: Mapping[int, Sequence[int]],
    own: Mapping[int, Split],
) -> dict[int, Totals]:
    """Return client -> the totals on its own examples ``among`` its own classes; arguments as ``right_among_own``.

    Columns of the scores that come after those of the classes stay: they are figures of answers (promptfed.scores).
    """
    rest = torch.arange(len(reading.columns), scores.shape[1])
    totals = {}
    for client, places in places_of(reading, own):
        if client in among:
            columns = torch.cat([torch.searchsorted(reading.columns, torch.tensor(among[client])), rest])
            theirs = scores[places.to(scores.device)][:, columns.to(scores.device)]
            totals[client] = totals_of(measures, theirs, own[client], among[client])
    return totals


def totals_of(
    measures: Mapping[str, Measure],
    scores: Tensor,
    split: Split,
    among: Sequence[int] | None = None,
    rows: Tensor | None = None,
) -> Totals:
    """Return the totals of ``measures`` over a split, or over some ``rows`` of it and of ``scores``; none for no rows.

    ``among``: the classes of the scores' columns; None: all.
    """
    if not measures or not (len(split) if rows is None else len(rows)):
        return {}
    if rows is not None:
        scores = scores[rows.to(scores.device)]
    width = scores.shape[1]
    return {name: m.total(scores, truth_of(m, split, width, among, rows)) for name, m in measures.items()}
