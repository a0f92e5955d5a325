"""The geometric median of the updates (Pillutla et al. 2022, RFA), by the smoothed Weiszfeld algorithm."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor

from promptfed.aggregators.base import AGGREGATORS, Aggregator, RobustConfig
from promptfed.aggregators.deltas import difference_rows
from promptfed.aggregators.mean import merged
from promptfed.prompt_state import PromptState
from promptfed.types import Update


class GeometricMedianConfig(RobustConfig):
    """Options of the geometric median. ``smoothing`` is in the unit of the prompt."""

    smoothing: float = Field(1e-6, gt=0, description="distances below it count as it: no division by zero")
    iterations: int = Field(200, ge=1, description="at most so many; the paper makes do with a few")
    tolerance: float = Field(1e-9, ge=0, description="stop when a step is so short, measured by the median distance")


def weiszfeld_weights(points: Tensor, shares: Tensor, config: GeometricMedianConfig) -> Tensor:
    """``(n, values)``, ``(n,)`` -> weights ``(n,)``, summing to 1, of which the median is the weighted mean.

    Each iteration: ``w_i = shares_i / max(smoothing, |v - p_i|)``, ``v = sum_i w_i p_i / sum_i w_i``. It stops by the
    median distance: a mean one is as large as an outlier makes it, and then the first steps would seem short.
    """
    weights = shares / shares.sum()
    middle = weights @ points
    for _ in range(config.iterations):
        distances = (points - middle).norm(dim=1)
        weights = shares / distances.clamp_min(config.smoothing)
        weights = weights / weights.sum()
        before, middle = middle, weights @ points
        if (middle - before).norm() <= config.tolerance * distances.median():
            break
    return weights


@AGGREGATORS.register("geometric_median")
class GeometricMedian(Aggregator):
    """The prompt with the least sum of distances to the updates, weighted by samples (RFA).

    Distances are taken over the whole update; a tensor that a client did not send counts as unchanged, and each
    tensor is merged over those who sent it.
    """

    Config = GeometricMedianConfig
    config: GeometricMedianConfig

    def apply(
        self, shared: PromptState, updates: Sequence[Update], server: PromptState
    ) -> tuple[PromptState, PromptState]:
        shares = torch.tensor([update.samples for update in updates], dtype=torch.float64)
        weights = weiszfeld_weights(difference_rows(shared, updates), shares, self.config)
        return merged(shared, updates, weights.tolist()), server
