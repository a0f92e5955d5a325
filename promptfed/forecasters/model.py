"""A frozen model that forecasts series, which a method gives a guess at the future with its trust."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from promptfed.errors import ConfigError
from promptfed.examples.base import Item
from promptfed.examples.series import SeriesForm, WindowItem
from promptfed.frozen_model import Kind, OnPrepared
from promptfed.local_model import LocalModel
from promptfed.scores import forecast_scores
from promptfed.types import Split
from promptfed.usage import Usage

SMALLEST_DEVIATION = 1e-3
"""A past that varies less than this is taken as if it varied so much."""
WINDOWS_AT_ONCE = 256


@dataclass(frozen=True)
class Windows:
    """Windows as tensors, ``n`` of them with ``v`` variables.

    Attributes:
        past: ``(n, v, history)``.
        future: ``(n, v, horizon)``, the truth.
        context: ``(n, neighbours * v, history)``.
        states: What the model made of each past, ``(n * v, ...)``, by its own names.
    """

    past: Tensor
    future: Tensor
    context: Tensor
    states: dict[str, Tensor]

    @property
    def persistence(self) -> Tensor:
        """The last value as a forecast, ``(n, v, horizon)``."""
        return self.past[..., -1:].expand_as(self.future)


class Forecaster(LocalModel):
    """A model of single series: quantiles of the future from the past, and from a guess at it.

    A prompt speaks to it by the guess: values at the places of the future, each with a trust from 0 (there is none) to
    1 (as good as measured). What a model makes of a past alone is computed once in a process (``encode_series``).
    """

    kind: ClassVar[Kind] = "forecaster"
    examples: ClassVar[str] = "windows"
    does: ClassVar[str] = "forecasts series"
    longest_history: ClassVar[int]
    longest_horizon: ClassVar[int]
    quantiles: ClassVar[tuple[float, ...]]
    takes_passes: ClassVar[bool] = True
    """Whether it may be given its own forecast as a guess."""

    def __init__(self, name: str, form: SeriesForm, device: torch.device) -> None:
        super().__init__(name, device)
        self._form = form
        self._known: dict[str, dict[str, Tensor]] = {}
        for what, length, most in (
            ("history", form.history, self.longest_history),
            ("horizon", form.horizon, self.longest_horizon),
        ):
            if length > most:
                raise ConfigError(
                    f"task option '{what}' is {length} steps, and backbone '{name}' takes {most} at most: use "
                    f"--set task.{what}={most} or fewer, or another backbone"
                )

    # ------------------------------------------------------------------------------------- what every model has

    @property
    def form(self) -> SeriesForm:
        """What the windows look like."""
        return self._form

    @property
    def abilities(self) -> frozenset[str]:
        return frozenset({"encode_series"})

    def template_scores(self, template: str, split: Split, classes: Sequence[str]) -> Tensor:
        """Return the scores ``(n, 5)`` of forecasts without a prompt (promptfed.scores)."""
        with torch.no_grad():
            windows = self.encode_series(split.items)
            return self.scores(self.median(self.forecast(windows)), windows)

    def prepare(self, items: Sequence[Item], on_progress: OnPrepared | None = None, *, patches: bool = False) -> None:
        if not self.keeps_states:
            return
        for first in range(0, len(items), WINDOWS_AT_ONCE):
            self.encode_series(items[first : first + WINDOWS_AT_ONCE])
            if on_progress is not None:
                on_progress(min(first + WINDOWS_AT_ONCE, len(items)), len(items))

    # ----------------------------------------------------------------------------------------------- forecasts

    @torch.no_grad()
    def encode_series(self, items: Sequence[Item]) -> Windows:
        """Return ``items`` as tensors, with what the model makes of their pasts, which is computed once."""
        windows = [item for item in items if isinstance(item, WindowItem)]
        if len(windows) < len(items):
            raise ConfigError(
                f"backbone '{self.name}' forecasts series, and these examples are none: use task forecast"
            )
        shape = len(self.form.variables), self.form.history, self.form.horizon
        if not windows:
            past, future = torch.zeros(0, shape[0], shape[1]), torch.zeros(0, shape[0], shape[2])
            return Windows(past, future, torch.zeros(0, self.form.neighbours * shape[0], shape[1]), {})
        past, future, context = (
            torch.from_numpy(np.stack([getattr(item, part).T for item in windows])).to(self.device)
            for part in ("past", "future", "context")
        )
        return Windows(past, future, context, self._states(windows, past))

    def _states(self, windows: Sequence[WindowItem], past: Tensor) -> dict[str, Tensor]:
        """Return what the model makes of each past, from memory or computed."""
        if not self.keeps_states:
            return {}
        names = [item.content_id() for item in windows]
        if new := [row for row, name in enumerate(names) if name not in self._known]:
            made = self.encoded(past[new].flatten(0, 1))
            self._usage += Usage(model_rows=len(new) * past.shape[1], model_tokens=past[new].numel())
            for place, row in enumerate(new):
                rows = slice(place * past.shape[1], (place + 1) * past.shape[1])
                self._known[names[row]] = {name: tensor[rows].clone() for name, tensor in made.items()}
        parts = [self._known[name] for name in names]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    keeps_states: ClassVar[bool] = False
    """Whether something of a past is computed once."""

    def encoded(self, past: Tensor) -> dict[str, Tensor]:
        """Return what is computed once of pasts ``(rows, history)``, tensors ``(rows, ...)``."""
        return {}

    @abstractmethod
    def _forecast(self, past: Tensor, states: dict[str, Tensor], guess: Tensor | None, trust: Tensor | None) -> Tensor:
        """Return quantiles ``(rows, horizon, levels)`` of single series, whose past has mean 0 and deviation 1."""

    def forecast(self, windows: Windows, guess: Tensor | None = None, trust: Tensor | None = None) -> Tensor:
        """Return quantiles ``(n, v, horizon, levels)``; gradients flow to ``guess`` and ``trust``.

        Args:
            windows: What ``encode_series`` returned.
            guess: Values at the places of the future, ``(n, v, horizon)``; None: there are none.
            trust: How much each is worth, ``(n, v, horizon)`` in 0..1.
        """
        n, v, _ = windows.past.shape
        past = windows.past.flatten(0, 1)
        mean = past.mean(1, keepdim=True)
        deviation = past.std(1, keepdim=True, unbiased=False).clamp(min=SMALLEST_DEVIATION)
        scaled = None if guess is None else (guess.flatten(0, 1) - mean) / deviation
        weight = None if trust is None else trust.flatten(0, 1)
        out = self._forecast((past - mean) / deviation, windows.states, scaled, weight)
        self._usage += Usage(model_rows=n * v, model_tokens=past.numel())
        forecast: Tensor = (out * deviation[..., None] + mean[..., None]).unflatten(0, (n, v))
        return forecast

    def median(self, quantiles: Tensor) -> Tensor:
        """Return the middle of quantiles ``(..., levels)``."""
        return quantiles[..., self.quantiles.index(0.5)]

    def scores(self, forecast: Tensor, windows: Windows) -> Tensor:
        """Return the scores ``(n, 5)`` of ``forecast`` ``(n, v, horizon)`` (promptfed.scores)."""
        return forecast_scores(forecast, windows.future, windows.persistence)
