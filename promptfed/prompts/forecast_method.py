"""What all methods on models of series share: a forecast that is trained, one loss, scores of windows."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from promptfed.forecasters.model import Forecaster, Windows
from promptfed.frozen_model import Kind
from promptfed.local_training import GradientTraining, LocalObjective, LocalSteps
from promptfed.prompt_state import PromptState
from promptfed.setup import Setup
from promptfed.types import Broadcast, ClientData, ClientPrompt, Split


class ForecastConfig(LocalSteps):
    """Options of methods that train a forecast."""

    loss: Literal["mae", "quantile"] = Field(
        "mae", description="mae: absolute error of the median; quantile: pinball loss of all quantiles of the model"
    )
    lr: float = Field(0.03, gt=0, description="learning rate")
    local_epochs: int = Field(4, ge=1, description="epochs over a client's windows in a round")


class ForecastMethod(GradientTraining):
    """A method whose clients train tensors that change the forecast of a frozen model.

    A method says how (``quantiles``). By default all its tensors are trained, sent, and predicted with.
    """

    model_kind: ClassVar[Kind] = "forecaster"
    requires: ClassVar[frozenset[str]] = frozenset({"encode_series"})
    keeps: ClassVar[str] = "series"
    mixes_examples: ClassVar[str] = "a measurement is part of several windows, so to protect one window protects none"
    lr_multipliers: ClassVar[Mapping[str, float]] = {}
    """What the learning rate of some tensors is multiplied by."""
    config: ForecastConfig

    def __init__(self, config: ForecastConfig, setup: Setup) -> None:
        super().__init__(config, setup)
        self.model: Forecaster = setup.forecaster

    @abstractmethod
    def quantiles(self, tensors: Mapping[str, Tensor], windows: Windows, draw: torch.Generator | None = None) -> Tensor:
        """Return the forecast ``(n, variables, horizon, levels)``; gradients flow to ``tensors``.

        Args:
            tensors: What is trained, on the model's device.
            windows: What is forecast.
            draw: Where random numbers come from in training; None: this is no training.
        """

    def error(self, quantiles: Tensor, truth: Tensor) -> Tensor:
        """Return the mean loss of a forecast whose ``truth`` is ``(n, variables, horizon)``."""
        if self.config.loss == "mae":
            return (self.model.median(quantiles) - truth).abs().mean()
        levels = torch.tensor(self.model.quantiles, device=quantiles.device)
        error = truth[..., None] - quantiles
        return torch.maximum(levels * error, (levels - 1) * error).mean()

    # --------------------------------------------------------------------------------------------- training

    def stream(self, round: int, client: int) -> torch.Generator | None:
        """Return where a client's training draws from in ``round``; None: it draws nothing."""
        return None

    def problem(self, broadcast: Broadcast, data: ClientData, personal: PromptState) -> LocalObjective:
        draw, items = self.stream(broadcast.round, data.client), data.train.items

        def loss(parameters: Mapping[str, Tensor], features: Sequence[Tensor], rows: Tensor) -> tuple[Tensor, Tensor]:
            windows = self.model.encode_series([items[row] for row in rows.tolist()])
            quantiles = self.quantiles(parameters, windows, draw)
            scores = self.model.scores(self.model.median(quantiles).detach(), windows)
            return self.error(quantiles, windows.future), scores[:, : len(self.setup.classes)]

        return LocalObjective(broadcast.shared, data.train.labels, loss, lr_multipliers=self.lr_multipliers)

    # ------------------------------------------------------------------------------------------- prediction

    def forecast(self, shared: PromptState, personal: PromptState, windows: Windows) -> Tensor:
        """Return the median forecast ``(n, variables, horizon)`` with what a client deploys, without a gradient."""
        with torch.no_grad():
            tensors = {name: tensor.to(self.model.device) for name, tensor in shared.items()}
            return self.model.median(self.quantiles(tensors, windows))

    def logits(self, shared: PromptState, personal: PromptState, classes: Sequence[str], split: Split) -> Tensor:
        windows = self.model.encode_series(split.items)
        return self.model.scores(self.forecast(shared, personal, windows), windows)

    def client_logits(self, prompt: ClientPrompt, classes: Sequence[str], split: Split) -> Tensor:
        """As every method's; where two prompts are mixed in feature space, it is their forecasts."""
        pair, general = self.ends(prompt)
        if general is None:
            return self.logits(*pair, classes, split)
        windows = self.model.encode_series(split.items)
        parts = [self.forecast(*some, windows) for some in (general, pair)]
        return self.model.scores(torch.lerp(parts[0], parts[1], prompt.alpha), windows)
