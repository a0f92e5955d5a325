"""The trivial baselines of forecasts: the last value, and the value at the same hour of the day before."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from promptfed.forecasters.model import Windows
from promptfed.frozen_model import Kind
from promptfed.method import METHODS, Method
from promptfed.prompt_state import PromptState
from promptfed.scores import BETTER, LOSS
from promptfed.types import NO_PROMPT, Broadcast, ClientData, Split, Update


class TrivialForecast(Method):
    """A forecast that needs no model. Shared: nothing. Personal: nothing."""

    model_kind: ClassVar[Kind] = "forecaster"
    trains: ClassVar[str] = "nothing"
    keeps: ClassVar[str] = "series"
    aggregators: ClassVar[tuple[str, ...]] = ("mean",)

    @property
    def rounds(self) -> int:
        return 1

    @abstractmethod
    def forecast(self, windows: Windows) -> Tensor:
        """Return the forecast ``(n, variables, horizon)``."""

    def train(self, broadcast: Broadcast, data: ClientData, personal: PromptState) -> tuple[Update, PromptState]:
        split = data.val if len(data.val) else data.train
        scores = self.logits(NO_PROMPT, NO_PROMPT, self.setup.classes, split)
        loss, better = -scores[:, LOSS].mean().item(), scores[:, BETTER].mean().item()
        return Update(data.client, NO_PROMPT, len(split), loss, better), personal

    def logits(self, shared: PromptState, personal: PromptState, classes: Sequence[str], split: Split) -> Tensor:
        model = self.setup.forecaster
        with torch.no_grad():
            windows = model.encode_series(split.items)
            return model.scores(self.forecast(windows), windows)


@METHODS.register("persistence")
class Persistence(TrivialForecast):
    """The last value is repeated: what every forecast has to beat."""

    name: ClassVar[str] = "persistence"
    paper: ClassVar[str] = "none"

    def forecast(self, windows: Windows) -> Tensor:
        return windows.persistence


@METHODS.register("yesterday")
class SameHourYesterday(TrivialForecast):
    """The last cycle is repeated (``task.period``, 24 steps by default): same hour yesterday."""

    name: ClassVar[str] = "same hour yesterday"
    paper: ClassVar[str] = "none"

    def forecast(self, windows: Windows) -> Tensor:
        horizon, history = windows.future.shape[-1], windows.past.shape[-1]
        period = min(self.setup.forecaster.form.period, history)
        places = history - period + torch.arange(horizon, device=windows.past.device) % period
        return windows.past[..., places]
