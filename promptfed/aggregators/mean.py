"""Federated averaging of prompts (McMahan et al. 2017, FedAvg), weighted by sample count or uniform."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from promptfed.aggregators.base import AGGREGATORS, Aggregator
from promptfed.prompts import PromptState
from promptfed.types import Update


def weighted_mean(states: Sequence[PromptState], weights: Sequence[float]) -> PromptState:
    """``sum_i w_i s_i / sum_i w_i``, accumulated in float64. Weights must not all be zero."""
    shares = torch.tensor(weights, dtype=torch.float64)
    shares = shares / shares.sum()
    for state in states[1:]:
        difference = states[0].mismatch(state)
        if difference:
            raise ValueError(f"updates do not fit: {difference}")
    return PromptState(
        {name: torch.tensordot(shares, torch.stack([s[name].double() for s in states]), 1) for name in states[0]}
    )


@AGGREGATORS.register("mean")
class Mean(Aggregator):
    """``theta <- sum_i (n_i / n) theta_i``: PromptFL's server step as its paper states it."""

    def apply(
        self, shared: PromptState, updates: Sequence[Update], server: PromptState
    ) -> tuple[PromptState, PromptState]:
        return weighted_mean([u.shared for u in updates], [u.samples for u in updates]), server


@AGGREGATORS.register("uniform")
class Uniform(Aggregator):
    """``theta <- mean_i theta_i``, every client alike: what the released PromptFL and FedTPG codes do."""

    def apply(
        self, shared: PromptState, updates: Sequence[Update], server: PromptState
    ) -> tuple[PromptState, PromptState]:
        return weighted_mean([u.shared for u in updates], [1.0] * len(updates)), server
