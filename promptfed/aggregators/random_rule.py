"""Rules that draw random numbers: from streams named by the run's seed and the number of merges so far."""

from __future__ import annotations

from abc import ABC
from copy import copy
from typing import Self

import torch

from promptfed.aggregators.base import Aggregator
from promptfed.prompt_state import PromptState
from promptfed.seeding import torch_stream

MERGES = "merges"


class RandomRule(Aggregator, ABC):
    """Rule with random draws of its own in every merge. Server memory: ``merges`` (), how many there were.

    A draw depends on the seed and that number alone, so that a resumed run draws what it would have drawn.
    """

    seed: int = 0

    def seeded(self, seed: int) -> Self:
        other = copy(self)
        other.seed = seed
        return other

    def init(self, shared: PromptState) -> PromptState:
        return PromptState({MERGES: torch.zeros((), dtype=torch.int64)})

    def next_merge(self, server: PromptState) -> int:
        """Return the number of the merge that comes after ``server``, from 1."""
        return int(server[MERGES]) + 1

    def stream(self, merge: int, *names: str | int) -> torch.Generator:
        """Return the random stream called ``names`` of one merge, from its beginning."""
        return torch_stream(self.seed, "aggregator", type(self).__name__, merge, *names)


def counted(merge: int) -> dict[str, torch.Tensor]:
    """Return the part of the server memory that says that ``merge`` is over."""
    return {MERGES: torch.tensor(merge)}
