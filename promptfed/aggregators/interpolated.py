"""Interpolation towards the previous shared prompt: a damped mean."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field

from promptfed.aggregators.base import AGGREGATORS, Aggregator, AggregatorConfig
from promptfed.aggregators.mean import mean_by_samples
from promptfed.prompt_state import PromptState
from promptfed.types import Update


class InterpolatedConfig(AggregatorConfig):
    """Options of the damped mean."""

    beta: float = Field(0.5, gt=0, le=1, description="how far towards the mean; 1 is the mean itself")


@AGGREGATORS.register("interpolated")
class DampedMean(Aggregator):
    """``theta <- (1 - beta) theta + beta sum_i (n_i / n) theta_i``: a part of the way to the mean by samples."""

    Config = InterpolatedConfig
    config: InterpolatedConfig
    needs = "sum"

    def apply(
        self, shared: PromptState, updates: Sequence[Update], server: PromptState
    ) -> tuple[PromptState, PromptState]:
        mean = mean_by_samples(shared, updates)
        return shared.combine(mean, lambda a, b: torch.lerp(a.double(), b.double(), self.config.beta)), server
