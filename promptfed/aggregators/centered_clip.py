"""Centred clipping: the mean of changes, clipped about last round's (Karimireddy, He and Jaggi 2021, ICML).

    v <- v + 1/n sum_i (D_i - v) min(1, tau / |D_i - v|)      `iterations` times

``D_i`` is client i's change of the prompt, and ``v`` starts from that of the last round (arXiv 2012.10333, Algorithm
2). An attacker moves ``v`` by ``tau / n`` at most in an iteration, whatever it sends.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor

from promptfed.aggregators.base import AGGREGATORS, Aggregator, RobustConfig
from promptfed.aggregators.coordinatewise import middle_mean, most
from promptfed.aggregators.deltas import difference_rows, from_row, presence_rows
from promptfed.prompt_state import PromptState
from promptfed.types import Update

CENTER = "center/"


class CenteredClipConfig(RobustConfig):
    """Options of centred clipping. ``tau`` is in the unit of the prompt."""

    tau: float | None = Field(
        None,
        gt=0,
        le=1e9,
        allow_inf_nan=False,
        description="distance from the centre beyond which a change is shortened; by default the median distance",
    )
    iterations: int = Field(1, ge=1, le=100, description="how often the centre moves in a round; the paper: 1 to 3")


def clipped_center(rows: Tensor, held: Tensor, center: Tensor, tau: float | None, iterations: int) -> Tensor:
    """Return the centre ``(values,)`` after ``iterations`` of centred clipping.

    Args:
        rows: Changes ``(n, values)``.
        held: 1 where a row says something about a value, else 0, ``(n, values)``.
        center: Where it starts, ``(values,)``.
        tau: See the formula; None: the median distance from the centre, in each iteration anew.
        iterations: How many.
    """
    for _ in range(iterations):
        offsets = (rows - center) * held
        distances = offsets.norm(dim=1)
        limit = middle_mean(distances, most(len(distances))) if tau is None else torch.tensor(tau, dtype=rows.dtype)
        factors = torch.where(distances > limit, limit / distances, torch.ones_like(distances))
        center = center + factors @ offsets / held.sum(0).clamp_min(1)
    return center


@AGGREGATORS.register("centered_clip")
class CenteredClip(Aggregator):
    """Last round's merged change, moved by the mean of the offsets from it, which are shortened to ``tau``.

    ``theta <- theta + v``; clients have equal weight. Server memory: ``center/NAME``, which is ``v``, zero at first.
    Different from the paper: the clients keep no momentum; without ``tau`` the median distance of the round is taken,
    which follows the changes as they get shorter. A value is merged over the clients that sent it, and one that nobody
    sent stays, and so does its ``v``.
    """

    Config = CenteredClipConfig
    config: CenteredClipConfig

    def init(self, shared: PromptState) -> PromptState:
        return PromptState({CENTER + name: torch.zeros_like(tensor) for name, tensor in shared.items()})

    def apply(
        self, shared: PromptState, updates: Sequence[Update], server: PromptState
    ) -> tuple[PromptState, PromptState]:
        held = presence_rows(shared, updates)
        center = torch.cat([torch.zeros(0), *(server[CENTER + name].flatten() for name in shared)]).double()
        rows = difference_rows(shared, updates)
        change = from_row(shared, clipped_center(rows, held, center, self.config.tau, self.config.iterations))
        sent = {name for update in updates for name in update.shared}
        moved = {name: shared[name].double() + change[name] for name in sent}
        memory = {CENTER + name: change[name] for name in sent}
        return PromptState({**shared, **moved}), PromptState({**server, **memory})
