"""Fracast, a small forecaster of the package index whose weights are in its wheel (dilated convolutions, univariate).

A past is encoded once. What its head makes of a past ends in a convolution over 128 states of the past and a seasonal
fill of the future; a guess takes the fill's place as far as it is trusted, so a guess without trust changes nothing.
"""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from promptfed.backbones.base import freeze, hash_tensors
from promptfed.backbones.device import pick_device
from promptfed.errors import BackboneError
from promptfed.examples.series import SeriesForm
from promptfed.forecasters.model import Forecaster

CONTEXT, HORIZON = 2048, 48
"""Steps that it reads, of which the first may be missing, and steps that it forecasts."""
TAIL = 128
"""States of a past that the convolution reads."""
ROWS = 16
"""Pasts that are encoded together."""
INSTALL = "install it: pip install 'promptfed[forecast]'"


class Fracast(Forecaster):
    """``core`` encodes pasts, ``head`` makes quantiles of them."""

    longest_history: ClassVar[int] = CONTEXT
    longest_horizon: ClassVar[int] = HORIZON
    quantiles: ClassVar[tuple[float, ...]] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    takes_passes: ClassVar[bool] = False
    keeps_states: ClassVar[bool] = True

    def __init__(self, form: SeriesForm, core: Any, head: Any, device: torch.device) -> None:
        super().__init__("fracast", form, device)
        self.core: Any = freeze(core.to(device))
        self.head: Any = freeze(head.to(device))
        self._loaded = self._weights_sha256()

    def __reduce__(self) -> tuple[type[Fracast], tuple[Any, ...]]:
        """Pickle what it is made of; what is known of pasts is each process's own."""
        return Fracast, (self.form, self.core, self.head, self.device)

    def with_form(self, form: SeriesForm) -> Fracast:
        """Return the same model for other windows; the weights are shared."""
        return Fracast(form, self.core, self.head, self.device)

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(f"fracast 1|{self._loaded}".encode()).hexdigest()

    def _weights_sha256(self) -> str:
        return hash_tensors([*self.core.state_dict().items(), *self.head.state_dict().items()])

    def encoded(self, past: Tensor) -> dict[str, Tensor]:
        """Return what the head makes of pasts before the convolution, and what that reads besides a guess."""
        parts = [self._encoded(rows) for rows in past.split(ROWS)]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def _encoded(self, past: Tensor) -> dict[str, Tensor]:
        mean = past.mean(1, keepdim=True)
        scaled = (past - mean) / past.std(1, keepdim=True, unbiased=False).clamp(min=1e-3)
        low, span = _range(scaled)
        rows, history = past.shape
        values, observed = (
            past.new_zeros(rows, CONTEXT),
            torch.zeros(rows, CONTEXT, dtype=torch.bool, device=self.device),
        )
        values[:, -history:], observed[:, -history:] = (scaled - low) / span, True
        seen: dict[str, Tensor] = {}

        def before_convolution(_: Any, inputs: tuple[Tensor, Tensor, Tensor]) -> None:
            states, seen["fill"], seen["places"] = inputs
            seen["tail"] = states[:, -TAIL:]

        def after_convolution(_: Any, inputs: Any, output: Tensor) -> None:
            seen["moved"] = output

        def before_output(_: Any, inputs: tuple[Tensor]) -> None:
            seen["sum"] = inputs[0]

        hooks = [
            self.head.future_conv.register_forward_pre_hook(before_convolution),
            self.head.future_conv.register_forward_hook(after_convolution),
            self.head.out_proj.register_forward_pre_hook(before_output),
        ]
        try:
            hidden = self.core(values[:, None], observed[:, None], observed[:, None].float())
            self.head.forward_horizon(hidden, last_obs=values[:, -1:], ctx=values, ctx_mask=observed)
        finally:
            for hook in hooks:
                hook.remove()
        static = seen["sum"] - seen["moved"]
        return {"static": static, "tail": seen["tail"], "fill": seen["fill"], "places": seen["places"]}

    def _forecast(self, past: Tensor, states: dict[str, Tensor], guess: Tensor | None, trust: Tensor | None) -> Tensor:
        low, span = _range(past)
        fill, horizon = states["fill"], self.form.horizon
        if guess is not None and trust is not None:
            ahead = fill[:, :horizon] + trust * ((guess - low) / span - fill[:, :horizon])
            fill = torch.cat([ahead, fill[:, horizon:]], 1)
        moved = self.head.future_conv(states["tail"], fill, states["places"])
        out: Tensor = self.head.out_proj(states["static"] + moved)
        return out[:, :horizon] * span[..., None] + low[..., None]


def _range(past: Tensor) -> tuple[Tensor, Tensor]:
    """Return the least value of each past and its span, ``(rows, 1)``."""
    low = past.amin(1, keepdim=True)
    return low, (past.amax(1, keepdim=True) - low).clamp(min=1e-5)


@cache
def _loaded() -> tuple[Any, Any]:
    """Load core and head, once in a process. Raises BackboneError."""
    try:
        import fracast
        from fracast.inference import load_fracast
    except ImportError as error:
        raise BackboneError(f"backbone 'fracast' needs a package that is not installed: {INSTALL}") from error
    try:
        with torch.random.fork_rng(devices=[]):
            core, head = load_fracast(Path(fracast.__file__).parent / "weights", weights="fp32")
    except (OSError, RuntimeError, KeyError) as error:
        raise BackboneError(f"backbone 'fracast' cannot be read: {error}; {INSTALL}") from error
    needed = all(hasattr(head, name) for name in ("future_conv", "out_proj", "output_mode"))
    if not needed or head.future_conv is None or head.output_mode != "direct":
        raise BackboneError(
            f"fracast {version('fracast')} is built in another way than 0.1.0: pip install fracast==0.1.0"
        )
    return core, head


def load_fracast_model(form: SeriesForm, *, device: str = "cpu") -> Fracast:
    """Load Fracast for windows of ``form``. Raises BackboneError if it is not installed or of another build."""
    core, head = _loaded()
    return Fracast(form, core, head, pick_device(device))
