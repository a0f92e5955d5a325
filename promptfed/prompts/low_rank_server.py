"""Servers of federated LoRA: merging the factors of each matrix together, and everything else as the run says."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from promptfed.aggregators.base import Aggregator, AggregatorWrapper
from promptfed.aggregators.mean import Uniform
from promptfed.inserts.base import MODULE
from promptfed.inserts.low_rank import RESIDUAL, A, B, LowRank, factor_name
from promptfed.language_models.insert import Factors
from promptfed.low_rank import singular, total
from promptfed.prompt_state import PromptState
from promptfed.types import Update

LOG = logging.getLogger(__name__)
Weights = Sequence[float]


class FactorServer(AggregatorWrapper):
    """A rule for factors; ``inner`` merges all other tensors, such as a head's.

    Clients weigh as in ``inner``: by samples, or equally if it is the uniform mean.
    """

    def __init__(self, inner: Aggregator, kind: LowRank) -> None:
        super().__init__(inner)
        self.kind = kind

    def init(self, shared: PromptState) -> PromptState:
        return self.inner.init(_others(shared))

    @abstractmethod
    def merge_factors(self, path: str, changes: Sequence[Factors], weights: Weights, shared: PromptState) -> Tensors:
        """Return the tensors of one matrix that replace those in ``shared``.

        Args:
            path: The matrix.
            changes: What the clients sent for it.
            weights: Of the clients.
            shared: The prompt before the round.
        """

    def apply(
        self, shared: PromptState, updates: Sequence[Update], server: PromptState
    ) -> tuple[PromptState, PromptState]:
        weights = [1.0 if isinstance(self.inner, Uniform) else float(update.samples) for update in updates]
        factors: dict[str, Tensor] = {}
        for path in self.kind.paths:
            changes = [self.kind.factors(update.shared, path) for update in updates]
            factors |= self.merge_factors(path, changes, weights, shared)
        rest = [replace(update, shared=_others(update.shared)) for update in updates]
        others, server = self.inner.apply(_others(shared), rest, server)
        return PromptState({**others, **factors}), server


Tensors = dict[str, Tensor]


class ResidualServer(FactorServer):
    """A rule that adds to a frozen residual of each matrix, kept as factors of scale 1 in the shared prompt.

    Args:
        inner: See FactorServer.
        kind: The factors.
        most: The highest rank of a residual; None: whatever it has, to the rounding of float32.
    """

    def __init__(self, inner: Aggregator, kind: LowRank, most: int | None = None) -> None:
        super().__init__(inner, kind)
        self.most = most

    def grown(self, path: str, addition: Factors, shared: PromptState) -> Tensors:
        """Return one matrix's residual in ``shared`` plus ``addition``, of the lowest rank that says the same."""
        before = self.kind.factors(shared, path, RESIDUAL)
        parts = singular(total([before, addition]))
        rank = parts.rank_of_energy(1.0)
        if self.most is not None and rank > self.most:
            LOG.warning(
                "the residual of %s is cut from rank %d to %d: a relative error of %.1e",
                path, rank, self.most, parts.lost(self.most),
            )  # fmt: skip
            rank = self.most
        return self.kind.named(path, parts.factors(rank), RESIDUAL)


def no_residual(kind: LowRank) -> Tensors:
    """Return residuals of rank 1 that are zero."""
    values = {}
    for path, (out, width) in kind.shapes.items():
        values[factor_name(path, A, RESIDUAL)] = torch.zeros(1, width)
        values[factor_name(path, B, RESIDUAL)] = torch.zeros(out, 1)
    return values


def _others(state: PromptState) -> PromptState:
    """Return what is no factor."""
    return PromptState({name: tensor for name, tensor in state.items() if MODULE not in name})
