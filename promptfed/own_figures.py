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
    accuracies: dict[int, float] = {}

    def keep(reading: Reading, scores: Tensor) -> None:
        right = right_among_own(scores, reading, among, examples.own)
        accuracies.update((client, flags.mean().item()) for client, flags in right.items())

    _ask_own(method, prompts, classes, examples, among, keep)
    return {client: accuracies[client] for client in among}


def own_figures(
    method: Method,
    prompts: Mapping[int, ClientPrompt],
    classes: Sequence[str],
    examples: Examples,
    among: Mapping[int, Sequence[int]],
    measure: Measure,
) -> dict[int, float]:
    """As ``own_accuracies``, by another measure."""
    figures: dict[int, float] = {}

    def keep(reading: Reading, scores: Tensor) -> None:
        totals = own_totals({"": measure}, scores, reading, among, examples.own)
        figures.update((client, measure.combine(total[""])) for client, total in totals.items())

    _ask_own(method, prompts, classes, examples, among, keep)
    return {client: figures[client] for client in among}


def _ask_own(
    method: Method,
    prompts: Mapping[int, ClientPrompt],
    classes: Sequence[str],
    examples: Examples,
    among: Mapping[int, Sequence[int]],
    keep: Callable[[Reading, Tensor], None],
) -> None:
    """Have clients' own examples scored among their own classes, and give readings and scores to ``keep``."""
    reader = Reader(method, classes, examples)

    def jobs() -> Iterator[tuple[ScoringJob, Answer]]:
        for clients in alike(prompts, among):
            for reading in reader.own(prompts[clients[0]], clients, among):
                yield reading.job, partial(keep, reading)

    ask(method, jobs())
