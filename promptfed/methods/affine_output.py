"""The baseline that asks what a prompt adds: a factor and an offset of the model's own forecast."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from promptfed.forecasters.model import Windows
from promptfed.method import METHODS, MethodConfig
from promptfed.prompt_state import PromptState
from promptfed.prompts.forecast_method import ForecastConfig, ForecastMethod


@METHODS.register("affine_output")
class AffineOutput(ForecastMethod):
    """Clients train a factor and an offset for each variable and step, behind the frozen model; the server averages.

    Shared: ``factor`` and ``offset`` ``(variables, horizon)``. Personal: nothing. It is no prompt, and needs no
    gradient through the model.
    """

    name: ClassVar[str] = "affine on output"
    paper: ClassVar[str] = "none"
    trains: ClassVar[str] = "factor and offset (2, variables, horizon)"
    Config: ClassVar[type[MethodConfig]] = ForecastConfig

    def init_shared(self) -> PromptState:
        shape = len(self.model.form.variables), self.model.form.horizon
        return PromptState({"factor": torch.ones(shape), "offset": torch.zeros(shape)})

    def quantiles(self, tensors: Mapping[str, Tensor], windows: Windows, draw: torch.Generator | None = None) -> Tensor:
        with torch.no_grad():
            out = self.model.forecast(windows)
        return out * tensors["factor"][..., None] + tensors["offset"][..., None]
