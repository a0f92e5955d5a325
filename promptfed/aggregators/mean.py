"""Federated averaging of prompts (McMahan et al. 2017, FedAvg), weighted by sample count or uniform."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from promptfed.aggregators.base import AGGREGATORS, Aggregator
from promptfed.prompt_state import PromptState
from promptfed.types import Update


def weighted_mean(states: Sequence[Mapping[str, Tensor]], weights: Sequence[float]) -> PromptState:
    """Return ``sum_i w_i s_i / sum_i w_i``, accumulated in float64.

    Args:
        states: Tensors by name. Each tensor is averaged over the states that have it.
        weights: One for each state, not all zero.

    Raises:
        ValueError: Two states have a tensor in different shapes.

    >>> weighted_mean([{"ctx": torch.tensor([0.0])}, {"ctx": torch.tensor([4.0])}], [3, 1])["ctx"].item()
    1.0
    """
    means: dict[str, Tensor] = {}
    for name in sorted({name for state in states for name in state}):
        holders = [(state[name], weight) for state, weight in zip(states, weights, strict=True) if name in state]
        shapes = {tuple(tensor.shape) for tensor, _ in holders}
        if len(shapes) > 1:
            raise ValueError(f"updates do not fit: '{name}' is {' and '.join(map(str, sorted(shapes)))}")
        shares = torch.tensor([weight for _, weight in holders], dtype=torch.float64)
        tensors = torch.stack([tensor.double() for tensor, _ in holders])
        means[name] = torch.tensordot(shares / shares.sum(), tensors, 1)
    return PromptState(means)


def merged(shared: PromptState, updates: Sequence[Update], weights: Sequence[float]) -> PromptState:
    """Replace each tensor of ``shared`` by the weighted mean over the updates that hold it.

    Where each client owns some tensors (Fed-DPT's text prompts), this puts them side by side.
    """
    return PromptState({**shared, **weighted_mean([u.shared for u in updates], weights)})


def mean_by_samples(shared: PromptState, updates: Sequence[Update]) -> PromptState:
    """Merge by sample counts: ``theta <- sum_i (n_i / n) theta_i``."""
    return merged(shared, updates, [update.samples for update in updates])


@AGGREGATORS.register("mean")
class Mean(Aggregator):
    """``theta <- sum_i (n_i / n) theta_i``: PromptFL's server step as its paper states it."""

    needs = "sum"

    def apply(
        self, shared: PromptState, updates: Sequence[Update], server: PromptState
    ) -> tuple[PromptState, PromptState]:
        return mean_by_samples(shared, updates), server


@AGGREGATORS.register("uniform")
class Uniform(Aggregator):
    """``theta <- mean_i theta_i``, with equal weights: what the released PromptFL and FedTPG codes do."""

    needs = "sum"

    def apply(
        self, shared: PromptState, updates: Sequence[Update], server: PromptState
    ) -> tuple[PromptState, PromptState]:
        return merged(shared, updates, [1.0] * len(updates)), server
