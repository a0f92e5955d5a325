"""Krum and Multi-Krum: keep the updates that lie closest to others (Blanchard et al. 2017).

The score of an update is the sum of squared distances to its ``n - f - 2`` nearest neighbours, where ``f`` of the
``n`` clients may be malicious; low is good. Distances are taken over the whole update, in which a missing tensor
counts as unchanged. All clients have equal weight, as in the paper.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from promptfed.aggregators.base import AGGREGATORS, Aggregator, AggregatorConfig
from promptfed.aggregators.deltas import difference_rows, pairwise_distances
from promptfed.aggregators.mean import merged
from promptfed.errors import ConfigError
from promptfed.prompt_state import PromptState
from promptfed.types import Update


def krum_scores(rows: Tensor, byzantine: int) -> Tensor:
    """Return Krum's scores ``(n,)`` of ``rows`` ``(n, values)``; at least one neighbour counts, if there is one."""
    squared = pairwise_distances(rows).square().sort(1).values
    return squared[:, 1 : 1 + max(1, len(rows) - byzantine - 2)].sum(1)  # the first is the distance to itself


class KrumConfig(AggregatorConfig):
    """Options of Krum."""

    byzantine: int = Field(1, ge=0, description="how many malicious clients a round is to withstand")


@AGGREGATORS.register("krum")
class Krum(Aggregator):
    """The one update that lies closest to the others, unchanged; needs ``2 byzantine + 3`` updates a round.

    If fewer updates arrive, an update is still scored by at least one neighbour. Of two updates, that of the client
    with the lower number wins.
    """

    Config: ClassVar[type[KrumConfig]] = KrumConfig
    config: KrumConfig

    def keep(self, updates: int) -> int:
        """Return how many of ``updates`` are kept."""
        return 1

    def check(self, clients: int) -> None:
        byzantine = self.config.byzantine
        if clients < 2 * byzantine + 3:
            largest = (clients - 3) // 2
            fix = f"--set aggregator.byzantine={largest}" if largest >= 0 else "--aggregator median"
            raise ConfigError(
                f"Krum with byzantine={byzantine} needs {2 * byzantine + 3} updates a round and {clients} of them "
                f"are asked for: use more clients a round, or {fix}"
            )

    def apply(
        self, shared: PromptState, updates: Sequence[Update], server: PromptState
    ) -> tuple[PromptState, PromptState]:
        scores = krum_scores(difference_rows(shared, updates), self.config.byzantine)
        best = torch.argsort(scores, stable=True)[: self.keep(len(updates))].tolist()
        return merged(shared, [updates[i] for i in sorted(best)], [1.0] * len(best)), server


class MultiKrumConfig(KrumConfig):
    """Options of Multi-Krum."""

    keep: int | None = Field(None, ge=1, description="how many updates are averaged; by default all but `byzantine`")


@AGGREGATORS.register("multi_krum")
class MultiKrum(Krum):
    """Mean of the ``keep`` updates with the best Krum scores, equal weights; needs ``2 byzantine + 3`` updates a round.

    If fewer arrive, at most all but ``byzantine`` of them are kept, and at least one.
    """

    Config: ClassVar[type[MultiKrumConfig]] = MultiKrumConfig
    config: MultiKrumConfig

    def keep(self, updates: int) -> int:
        trusted = max(1, updates - self.config.byzantine)
        return min(self.config.keep or trusted, trusted)

    def check(self, clients: int) -> None:
        super().check(clients)
        if (self.config.keep or 0) > clients - self.config.byzantine:
            raise ConfigError(
                f"multi_krum cannot keep={self.config.keep} of {clients} updates if byzantine={self.config.byzantine} "
                f"of them may be malicious: use --set aggregator.keep={clients - self.config.byzantine} or fewer"
            )
