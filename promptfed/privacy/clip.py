"""Clip updates: no client changes the prompt by more than a fixed length (McMahan et al. 2018, arXiv 1710.06963)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from pydantic import Field
from torch import Tensor

from promptfed.errors import ProcessorError
from promptfed.processors.base import PROCESSORS, Outgoing, Processor, ProcessorConfig, Streams, check_floating
from promptfed.prompt_state import PromptState
from promptfed.types import Broadcast, Update


class ClipConfig(ProcessorConfig):
    """Options of ``clip``."""

    max_norm: float = Field(
        1.0, gt=0, le=1e9, allow_inf_nan=False, description="largest L2 norm of the change from the broadcast"
    )


@PROCESSORS.register("clip")
class Clip(Processor):
    """Shorten the change of each update to an L2 norm of at most ``max_norm``.

    ``theta_i <- theta + d_i min(1, C / |d_i|)`` with ``d_i = theta_i - theta``, the norm over all tensors together and
    in float64. An update that is short enough is sent bit for bit as it was. This is the first half of differential
    privacy; by itself, without noise, it promises none.
    """

    Config = ClipConfig
    config: ClipConfig
    figures = ("clipped",)

    def check(self, update: PromptState, broadcast: PromptState) -> None:
        check_floating(update)
        _changes(update, broadcast)

    def outgoing(self, update: Update, broadcast: Broadcast, state: PromptState, streams: Streams) -> Outgoing:
        """Figure ``clipped``: 1 if the update was too long, else 0."""
        changes = _changes(update.shared, broadcast.shared)
        norm, limit = math.sqrt(sum(c.square().sum().item() for c in changes.values())), self.config.max_norm
        if norm <= limit:
            return Outgoing(update, figures={"clipped": 0.0})
        shortened = {name: broadcast.shared[name].double() + c * (limit / norm) for name, c in changes.items()}
        return Outgoing(replace(update, shared=PromptState(shortened)), figures={"clipped": 1.0})

    def summary(self, figures: Sequence[Mapping[str, float]]) -> str:
        count = round(sum(each["clipped"] for each in figures))
        return f"clip: {count} of {len(figures)} updates were longer than {self.config.max_norm:g} and were shortened"


def _changes(update: PromptState, broadcast: PromptState) -> dict[str, Tensor]:
    """Return each tensor's change from the broadcast in float64, or raise ProcessorError if one has no change."""
    for name, tensor in update.items():
        if not tensor.is_floating_point():
            raise ProcessorError(f"limits changes of real numbers, and '{name}' holds whole numbers")
        if name not in broadcast or broadcast[name].shape != tensor.shape:
            raise ProcessorError(f"limits changes from the broadcast, which has no '{name}' {tuple(tensor.shape)}")
    return {name: tensor.double() - broadcast[name].double() for name, tensor in update.items()}
