"""Divide and conquer: drop the updates that lie furthest along the main direction of spread.

Shejwalkar and Houmansadr 2021, NDSS, Algorithm 2. On the changes ``D`` in some random coordinates, with ``u`` the top
right singular vector of ``D - mean(D)``, the score of update i is ``<D_i - mean(D), u>^2``, and the ``c m`` highest are
dropped, ``m`` being the number of malicious clients.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor

from promptfed.aggregators.base import AGGREGATORS, RobustConfig
from promptfed.aggregators.coordinatewise import most
from promptfed.aggregators.deltas import difference_rows
from promptfed.aggregators.mean import merged
from promptfed.aggregators.random_rule import RandomRule, counted
from promptfed.errors import ConfigError
from promptfed.prompt_state import PromptState
from promptfed.types import Update


class DnCConfig(RobustConfig):
    """Options of DnC."""

    malicious: int = Field(1, ge=0, description="how many malicious clients a round is to withstand")
    filter: float = Field(1.0, gt=0, le=10, description="updates that are dropped for each malicious one: c")
    coordinates: int = Field(10_000, ge=1, description="random numbers of the prompt that an iteration looks at")
    iterations: int = Field(1, ge=1, le=100, description="how often it looks; an update must pass every time")


def spread_scores(rows: Tensor) -> Tensor:
    """Return the squared projections ``(n,)`` of centred ``rows`` ``(n, values)`` on their top singular vector."""
    if not rows.shape[1]:
        return torch.zeros(len(rows), dtype=rows.dtype)
    centered = rows - rows.mean(0)
    largest = centered.abs().max()
    if largest > 0:
        centered = centered / largest  # the squares of long rows would leave float64
    direction: Tensor = torch.linalg.svd(centered, full_matrices=False).Vh[0]
    return (centered @ direction).square()


@AGGREGATORS.register("dnc")
class DnC(RandomRule):
    """Mean, with equal weights, without the updates that lie furthest along the main direction of spread.

    With several iterations an update must pass each; if none does, those that failed least often are averaged. A
    missing tensor counts as unchanged. If so few updates arrive that half of them would be dropped, fewer are.
    The scores are in units of the largest deviation, which does not change their order.
    """

    Config = DnCConfig
    config: DnCConfig

    @property
    def wanted(self) -> int:
        """How many updates an iteration drops, if enough arrive."""
        return int(round(self.config.filter * self.config.malicious, 9))

    def check(self, clients: int) -> None:
        if self.wanted > most(clients):
            raise ConfigError(
                f"dnc with malicious={self.config.malicious} and filter={self.config.filter:g} would drop "
                f"{self.wanted} of {clients} updates, which leaves no majority: use more clients a round, "
                "or a smaller --set aggregator.malicious"
            )

    def apply(
        self, shared: PromptState, updates: Sequence[Update], server: PromptState
    ) -> tuple[PromptState, PromptState]:
        updates, merge = sorted(updates, key=lambda update: update.client), self.next_merge(server)
        rows, stream = difference_rows(shared, updates), self.stream(merge)
        passes = len(updates) - min(self.wanted, most(len(updates)))
        failures = torch.zeros(len(updates), dtype=torch.int64)
        for _ in range(self.config.iterations):
            chosen = torch.randperm(rows.shape[1], generator=stream)[: self.config.coordinates]
            failures[spread_scores(rows[:, chosen]).argsort(stable=True)[passes:]] += 1
        accepted = [update for update, failed in zip(updates, failures, strict=True) if failed == failures.min()]
        return merged(shared, accepted, [1.0] * len(accepted)), PromptState(counted(merge))
