"""What a method is asked to score outside training, one client after the other or many together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from promptfed.types import ClientPrompt, Split

TEXTS_AT_ONCE = 1024
"""Class names, one for each prompt, whose texts are encoded before the first of their scores is given out."""


@dataclass(frozen=True)
class ScoringJob:
    """What is to be scored: ``rows`` of ``split`` (None: all) among ``classes``, with what a client deploys."""

    prompt: ClientPrompt
    classes: Sequence[str]
    split: Split
    rows: Tensor | None = None

    def examples(self) -> Split:
        """Return the examples as a split of their own."""
        if self.rows is None:
            return self.split
        return Split(tuple(self.split.items[row] for row in self.rows.tolist()), self.split.labels[self.rows])


def in_chunks(jobs: Iterable[ScoringJob]) -> Iterator[list[ScoringJob]]:
    """Yield ``jobs`` in order, some ``TEXTS_AT_ONCE`` class names at a time."""
    chunk: list[ScoringJob] = []
    names = 0
    for job in jobs:
        chunk.append(job)
        names += len(job.classes)
        if names >= TEXTS_AT_ONCE:
            yield chunk
            chunk, names = [], 0
    if chunk:
        yield chunk
