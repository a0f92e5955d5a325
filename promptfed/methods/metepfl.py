"""MetePFL: prompts of a frozen model of weather series, in time and over variables (Chen et al., IJCAI 2023)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from promptfed.errors import ConfigError
from promptfed.forecasters.model import Windows
from promptfed.method import METHODS, MethodConfig
from promptfed.prompt_state import PromptState
from promptfed.prompts.forecast_method import ForecastConfig, ForecastMethod
from promptfed.seeding import torch_stream
from promptfed.setup import Setup

GATE = 2.0
"""Where the variable tokens begin: a trust of 1 - sigmoid(2) = 0.12."""


class MetePFLConfig(ForecastConfig):
    """MetePFL's options."""

    context: Literal["auto", "none", "variables", "neighbours", "both"] = Field(
        "auto",
        description="what else the tokens are made of: a station's other variables and its own past (variables), its "
        "neighbours (task.neighbours), both or none; auto: neighbours where the task shows them",
    )
    lags: int = Field(24, ge=1, description="steps of a neighbour's past that a token sees")
    passes: int = Field(
        1, ge=1, le=16, description="times the model reads; from the second on, its last forecast helps"
    )
    mask_ratio: float = Field(0.0, ge=0, lt=1, description="DropMask: share of the tokens left out in training")
    mask_length: float = Field(3.0, ge=1, description="mean length of what DropMask leaves out")


@METHODS.register("metepfl")
class MetePFL(ForecastMethod):
    """Clients train tokens that stand at the places of the future: what is to be expected there, and how sure that is.

    Shared: ``temporal`` ``(variables, horizon)``, the values of the tokens; ``variable`` ``(variables, horizon)``, of
    which 1 - sigmoid is their trust; with a context ``context`` ``(variables, series, lags)``, weights of what others
    measured so many steps before a token's own time, as far as it is known. Personal: nothing; ``--aggregator fedamp``
    stands in the place of the paper's graph of clients, which weighs unlike clients more.

    Different from the paper: the prompts have no batch dimension (in its code each place in a batch has its own); one
    pass, not sixteen; the frozen model is trained before, and not in the federation; the variable tokens are one for
    each variable and step and weigh the prompt, not the output; neighbours are a context and not a graph at the server.
    Training, validation and test windows are apart.
    """

    name: ClassVar[str] = "MetePFL"
    paper: ClassVar[str] = "Chen et al. 2023, arXiv 2301.09152"
    trains: ClassVar[str] = "temporal and variable tokens (2, variables, horizon)"
    lr_multipliers: ClassVar[Mapping[str, float]] = {"variable": 3.0, "context": 0.2}
    Config: ClassVar[type[MethodConfig]] = MetePFLConfig
    config: MetePFLConfig

    def __init__(self, config: MetePFLConfig, setup: Setup) -> None:
        super().__init__(config, setup)
        if config.passes > 1 and not self.model.takes_passes:
            raise ConfigError(
                f"method option 'passes' is {config.passes}, and backbone '{self.model.name}' takes one pass: leave it "
                "out, or use --backbone tst"
            )
        form = self.model.form
        if config.context in ("neighbours", "both") and not form.neighbours:
            raise ConfigError(
                f"method option 'context' is '{config.context}', and the task shows no neighbours: add "
                "--set task.neighbours=3, or leave it out"
            )
        self.own = config.context in ("variables", "both")
        self.others = config.context in ("neighbours", "both") or (config.context == "auto" and form.neighbours > 0)
        self.lags = min(config.lags, form.history)

    def init_shared(self) -> PromptState:
        form = self.model.form
        variables = len(form.variables)
        tensors = {
            "temporal": torch.zeros(variables, form.horizon),
            "variable": torch.full((variables, form.horizon), GATE),
        }
        if series := variables * (self.own + self.others * form.neighbours):
            tensors["context"] = torch.zeros(variables, series, self.lags)
        return PromptState(tensors)

    def stream(self, round: int, client: int) -> torch.Generator | None:
        return torch_stream(self.setup.seed, "DropMask", round, client) if self.config.mask_ratio else None

    def quantiles(self, tensors: Mapping[str, Tensor], windows: Windows, draw: torch.Generator | None = None) -> Tensor:
        guess = self._from_context(tensors, windows) + tensors["temporal"]
        trust = (1 - torch.sigmoid(tensors["variable"])).expand_as(guess)
        if draw is not None:
            trust = trust * self._kept(trust.shape[1:], draw).to(trust)
        out = self.model.forecast(windows, guess, trust)
        for _ in range(1, self.config.passes):
            out = self.model.forecast(windows, (guess + self.model.median(out)) / 2, trust)
        return out

    def _from_context(self, tensors: Mapping[str, Tensor], windows: Windows) -> Tensor:
        """Return what the context says of each step of the future, ``(n, variables, horizon)``."""
        weights = tensors.get("context")
        if weights is None:
            return torch.zeros_like(windows.future)
        sources = torch.cat([*([windows.past] if self.own else []), *([windows.context] if self.others else [])], 1)
        horizon, lags = windows.future.shape[-1], weights.shape[-1]
        known = F.pad(sources[..., -lags:], (0, horizon - 1))
        # A step of the future, h from 1, sees what was measured j steps before it: place lags + h - 1 - j of ``known``.
        seen = known.unfold(-1, lags, 1).flip(-1)[..., :horizon, :]
        return torch.einsum("nchj,vcj->nvh", seen, weights)

    def _kept(self, shape: torch.Size, draw: torch.Generator) -> Tensor:
        """Return which tokens ``shape`` (variables, horizon) stay: runs of geometric length are left out."""
        leave, begin = 1 / self.config.mask_length, self.config.mask_ratio / (1 - self.config.mask_ratio)
        chances = torch.rand(*shape, generator=draw)
        dropped, rows = torch.rand(shape[0], generator=draw) < self.config.mask_ratio, []
        for step in range(shape[1]):
            rows.append(dropped)
            dropped = torch.where(dropped, chances[:, step] >= leave, chances[:, step] < begin * leave)
        return ~torch.stack(rows, 1)
