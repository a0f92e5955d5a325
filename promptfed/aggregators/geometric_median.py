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
    """Return weights ``(n,)``, summing to 1, with which the weighted mean of ``points`` is their geometric median.

    Each iteration: ``w_i = shares_i / max(smoothing, |v - p_i|)``, ``v = sum_i w_i p_i / sum_i w_i``. It stops by the
    median distance. The mean distance grows with an outlier, so that the first steps would seem short.

    Args:
        points: ``(n, values)``.
        shares: Weights of the points in the sum of distances, ``(n,)``.
        config: Smoothing, tolerance and number of iterations.
    """
    weights = shares / shares.sum()
    middle = weights @ points
    for _ in range(config.iterations):
        distances = (points - middle).norm(dim=1)
        weights = shares / distances.clamp_min(config.smoothing)
        weights = weights / weights.sum()
        previous, middle = middle, weights @ points
        if (middle - previous).norm() <= config.tolerance * distances.median():
            break
    return weights


@AGGREGATORS.register("geometric_median")
class GeometricMedian(Aggregator):
    """Prompt with the least sum of distances to the updates, weighted by samples (RFA).

    Distances are taken over the whole update, in which a missing tensor counts as unchanged. Each tensor is merged over
    the clients that sent it.
    """

    Config = GeometricMedianConfig
    config: GeometricMedianConfig

    def apply(
        self, shared: PromptState, updates: Sequence[Update], server: PromptState
    ) -> tuple[PromptState, PromptState]:
        shares = torch.tensor([update.samples for update in updates], dtype=torch.float64)
        weights = weiszfeld_weights(difference_rows(shared, updates), shares, self.config)
        return merged(shared, updates, weights.tolist()), server
