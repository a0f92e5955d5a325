"""Robust merging coordinate by coordinate: median and trimmed mean (Yin et al. 2018).

All clients have equal weight: sample counts that clients report themselves would be a way to attack. Each tensor is
merged over the clients that sent it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from pydantic import Field
from torch import Tensor

from promptfed.aggregators.base import AGGREGATORS, Aggregator, RobustConfig
from promptfed.errors import ConfigError
from promptfed.prompt_state import PromptState
from promptfed.types import Update


def middle_mean(values: Tensor, cut: int) -> Tensor:
    """Return the mean over ``n`` of ``(n, ...)`` without each number's ``cut`` smallest and largest values, float64.

    >>> middle_mean(torch.tensor([[1.0], [2.0], [3.0], [900.0]]), cut=1).item()
    2.5
    """
    return values.double().sort(0).values[cut : len(values) - cut].mean(0)


def trim_all(shared: PromptState, updates: Sequence[Update], cut: Callable[[int], int]) -> PromptState:
    """Replace every tensor that ``n`` clients sent by their ``middle_mean`` with ``cut(n)``."""
    tensors_by_name: dict[str, list[Tensor]] = {}
    for update in updates:
        for name, tensor in update.shared.items():
            tensors_by_name.setdefault(name, []).append(tensor)
    middles = {name: middle_mean(torch.stack(tensors), cut(len(tensors))) for name, tensors in tensors_by_name.items()}
    return PromptState({**shared, **middles})


def most(updates: int) -> int:
    """Return how many of ``updates`` values can be cut at each end so that at least one is left."""
    return (updates - 1) // 2


@AGGREGATORS.register("median")
class Median(Aggregator):
    """Median of each number over the clients, with equal weights; of an even count, the mean of the middle two."""

    Config = RobustConfig

    def apply(
        self, shared: PromptState, updates: Sequence[Update], server: PromptState
    ) -> tuple[PromptState, PromptState]:
        return trim_all(shared, updates, most), server


class TrimmedMeanConfig(RobustConfig):
    """Options of the trimmed mean."""

    trim: float = Field(0.2, gt=0, lt=0.5, description="share of the clients that is cut at each end, rounded up")


@AGGREGATORS.register("trimmed_mean")
class TrimmedMean(Aggregator):
    """Mean of each number without the ``trim`` share of the clients at each end, rounded up; equal weights.

    If so few updates arrive that nothing would be left, as many as possible are cut, which gives the median.
    """

    Config = TrimmedMeanConfig
    config: TrimmedMeanConfig

    def cut(self, updates: int) -> int:
        """Return how many of ``updates`` values are cut at each end."""
        return math.ceil(round(self.config.trim * updates, 9))  # 0.07 * 100 is a little more than 7

    def check(self, clients: int) -> None:
        if 2 * self.cut(clients) >= clients:
            raise ConfigError(
                f"trimmed_mean with trim={self.config.trim} would cut {self.cut(clients)} of {clients} updates at each "
                "end and leave none: use more clients a round, a smaller --set aggregator.trim, or --aggregator median"
            )

    def apply(
        self, shared: PromptState, updates: Sequence[Update], server: PromptState
    ) -> tuple[PromptState, PromptState]:
        return trim_all(shared, updates, lambda n: min(self.cut(n), most(n))), server
