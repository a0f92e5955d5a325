"""Figures of clients on their own examples among their own classes, with what each deploys."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

from torch import Tensor

from promptfed.measures.base import Measure
from promptfed.method import Method
from promptfed.scoring import Answer, Examples, Reader, Reading, alike, ask, own_totals, right_among_own
from promptfed.scoring_job import ScoringJob
from promptfed.types import ClientPrompt


def own_accuracies(
    method: Method,
    prompts: Mapping[int, ClientPrompt],
    classes: Sequence[str],
    examples: Examples,
    among: Mapping[int, Sequence[int]],
) -> dict[int, float]:
    """Return the accuracy of each client of ``among`` on its own examples, with what it deploys.

    Args:
        method: Who scores.
        prompts: What each client deploys.
        classes: The names of the base classes.
        examples: The clients' own examples, at least one each.
        among: Client -> the base classes that it chooses among, in rising order.
    """

    def accuracies(reading: Reading, scores: Tensor) -> dict[int, float]:
        right = right_among_own(scores, reading, among, examples.own)
        return {client: flags.mean().item() for client, flags in right.items()}

    return _collected(accuracies, method, prompts, classes, examples, among)


def own_figures(
    method: Method,
    prompts: Mapping[int, ClientPrompt],
    classes: Sequence[str],
    examples: Examples,
    among: Mapping[int, Sequence[int]],
    measure: Measure,
) -> dict[int, float]:
    """As ``own_accuracies``, by another measure."""

    def figures(reading: Reading, scores: Tensor) -> dict[int, float]:
        totals = own_totals({"": measure}, scores, reading, among, examples.own)
        return {client: measure.combine(total[""]) for client, total in totals.items()}

    return _collected(figures, method, prompts, classes, examples, among)


def _collected(
    figures: Callable[[Reading, Tensor], Mapping[int, float]],
    method: Method,
    prompts: Mapping[int, ClientPrompt],
    classes: Sequence[str],
    examples: Examples,
    among: Mapping[int, Sequence[int]],
) -> dict[int, float]:
    """Return the figure of each client of ``among``; ``figures`` gives those of the clients of one reading."""
    reader = Reader(method, classes, examples)
    collection: dict[int, float] = {}

    def collect(reading: Reading, scores: Tensor) -> None:
        collection.update(figures(reading, scores))

    def jobs() -> Iterator[tuple[ScoringJob, Answer]]:
        for clients in alike(prompts, among):
            for reading in reader.own(prompts[clients[0]], clients, among):
                yield reading.job, partial(collect, reading)

    ask(method, jobs())
    return {client: collection[client] for client in among}
