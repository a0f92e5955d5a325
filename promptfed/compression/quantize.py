"""Quantize updates: send 16 or 8 bits a number, and let the client make up later for what was lost."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from promptfed.errors import ProcessorError
from promptfed.processors.base import (
    PROCESSORS,
    Outgoing,
    Processor,
    ProcessorConfig,
    Streams,
    check_floating,
    floating_names,
)
from promptfed.prompt_state import PromptState
from promptfed.types import NO_PROMPT, Broadcast, Update

Format = Literal["float16", "int8"]
SCALES = "scales"
"""Name of the tensor with the steps of all int8 tensors, in their order."""
LARGEST_CODE = 127
LARGEST_HALF = 65504.0
CODES: dict[str, torch.dtype] = {"float16": torch.int16, "int8": torch.int8}
"""Format -> how its numbers travel. Prompts hold float32 and integers, so 16-bit floats go as the integers of the same
bits."""


class QuantizeConfig(ProcessorConfig):
    """Options of ``quantize``."""

    format: Format = Field(
        "int8", description="float16: half of the bytes; int8: a quarter, and a scale for each tensor"
    )
    error_feedback: bool = Field(False, description="add what rounding lost to the client's next update")


@PROCESSORS.register("quantize")
class Quantize(Processor):
    """Send each change as float16 or int8; the server goes on with float32.

    What is rounded is ``d = theta_i - theta``, the change from the broadcast, which is much smaller than the prompt and
    loses less; a tensor that was not sent down is rounded itself. int8: ``d`` goes as ``round(d / s)`` with one scale
    ``s = max|d| / 127`` for each tensor, so no number is off by more than ``s / 2``. Tensors of whole numbers pass as
    they are. With ``error_feedback`` (Seide et al. 2014; Karimireddy et al. 2019, arXiv 1901.09847) the client rounds
    ``d + e`` and keeps ``e``, which is what the server then lacks of it, until its next update.
    """

    Config = QuantizeConfig
    config: QuantizeConfig
    figures = ("lost",)

    def check(self, update: PromptState, broadcast: PromptState) -> None:
        check_floating(update)

    def outgoing(self, update: Update, broadcast: Broadcast, state: PromptState, streams: Streams) -> Outgoing:
        """Figure ``lost``: the length of the rounding error as a share of the length of what was to be sent."""
        check_floating(update.shared)
        wire: dict[str, Tensor] = {n: t for n, t in update.shared.items() if not t.is_floating_point()}
        scales, errors, targets = [], {}, {}
        for name in floating_names(update.shared):
            values = update.shared[name]
            base = _base(name, values.shape, broadcast)
            doubles = values.double()
            if name in state and state[name].shape == values.shape:
                doubles = doubles + state[name].double()
            targets[name] = doubles - base
            code, scale = self._coded(name, targets[name])
            scales.append(scale)
            wire[self._coded_name(name)] = code
            errors[name] = doubles - _decoded(code, scale, base).double()
        if self.config.format == "int8":
            wire[SCALES] = torch.stack(scales)
        length = _length(targets)
        return Outgoing(
            replace(update, shared=PromptState(wire)),
            PromptState(errors) if self.config.error_feedback else NO_PROMPT,
            {"lost": _length(errors) / length if length else 0.0},
        )

    def incoming(self, update: Update, broadcast: Broadcast, streams: Streams) -> Update:
        wire, prefix = dict(update.shared), self._coded_name("")
        coded = [name for name in wire if name.startswith(prefix)]
        scales: Tensor | None = None
        if self.config.format == "int8":
            scales = wire.pop(SCALES, None)
            if scales is None or not scales.is_floating_point() or tuple(scales.shape) != (len(coded),):
                raise ProcessorError(f"finds no {len(coded)} real numbers as '{SCALES}'")
        decoded = {}
        for position, name in enumerate(coded):
            code, plain = wire.pop(name), name.removeprefix(prefix)
            if code.dtype != CODES[self.config.format]:
                raise ProcessorError(f"finds '{plain}' as {code.dtype}, not as {CODES[self.config.format]}")
            scale = torch.tensor(1.0) if scales is None else scales[position]
            decoded[plain] = _decoded(code, scale, _base(plain, code.shape, broadcast))
        if strange := [name for name, tensor in wire.items() if tensor.is_floating_point() or name in decoded]:
            raise ProcessorError(f"finds '{strange[0]}', which was not rounded")
        return replace(update, shared=PromptState({**wire, **decoded}))

    def _coded_name(self, name: str) -> str:
        return f"{self.config.format}:{name}"

    def _coded(self, name: str, change: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``change`` as codes, and the float32 scale that they are multiplied by."""
        if not torch.isfinite(change).all():
            raise ProcessorError(f"cannot round '{name}', which holds numbers that are not finite")
        largest = change.abs().max().item() if change.numel() else 0.0
        if self.config.format == "float16":
            if largest > LARGEST_HALF:
                raise ProcessorError(
                    f"cannot send '{name}', which changes by {largest:g}: float16 holds {LARGEST_HALF:g} at most; "
                    "use format int8"
                )
            return change.to(torch.float16).view(torch.int16), torch.tensor(1.0)
        scale = torch.tensor(largest / LARGEST_CODE, dtype=torch.float32)
        step = scale.double() if scale > 0 else torch.tensor(1.0, dtype=torch.float64)
        return (change / step).round().clamp(-LARGEST_CODE, LARGEST_CODE).to(torch.int8), scale


def _base(name: str, shape: torch.Size, broadcast: Broadcast) -> Tensor:
    """Return what the change of a tensor is measured from, in float64: what was sent under its name, else zero."""
    sent = broadcast.shared.get(name)
    if sent is None or sent.shape != shape or not sent.is_floating_point():
        return torch.zeros((), dtype=torch.float64)
    return sent.double()


def _decoded(code: Tensor, scale: Tensor, base: Tensor) -> Tensor:
    """Return the float32 numbers that the server has in the end; the client computes the same."""
    change = code.view(torch.float16).double() if code.dtype == torch.int16 else code.double() * scale.double()
    return (base + change).float()


def _length(tensors: dict[str, Tensor]) -> float:
    return math.sqrt(sum(t.square().sum().item() for t in tensors.values()))
