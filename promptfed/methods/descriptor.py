"""Soft resource descriptors: each engine learns when it is of use, from the requests that it has judged itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from promptfed.errors import ConfigError
from promptfed.examples.base import Item
from promptfed.frozen_model import Kind
from promptfed.method import METHODS, Method, MethodConfig, Shape
from promptfed.prompt_state import PromptState
from promptfed.prompts.text_states import TextStates
from promptfed.setup import Setup
from promptfed.types import Broadcast, ClientData, Split, Update

PREFIX = "descriptor/"


class DescriptorConfig(MethodConfig):
    """Options of the fit."""

    ridge: float = Field(1.0, gt=0, description="weight of the squared length of w beside the squared errors")


@METHODS.register("descriptor")
class Descriptor(Method):
    """Each engine fits its own grades: ``w . f(request) + b``, where f is the frozen encoder's unit feature.

    w and b minimise ``sum_i (w . f_i + b - g_i)^2 + ridge |w|^2`` over the client's judged requests, in closed form, in
    one round. Only they are sent, ``width + 1`` numbers, and no text. The server keeps the descriptors of all engines
    side by side, and a request is scored by all of them: it is sent to the engines with the greatest predicted grades.

    Shared: ``descriptor/k`` ``(width + 1,)``, of engine k. Personal: nothing. An engine that has sent nothing is
    predicted to be of no use.
    """

    name: ClassVar[str] = "descriptor"
    paper: ClassVar[str] = "promptfed's own, for FeB4RAG: Wang et al. 2024, SIGIR, arXiv 2402.11891"
    trains: ClassVar[str] = "a descriptor (width + 1) of each engine"
    keeps: ClassVar[str] = "texts, grades"
    model_kind: ClassVar[Kind] = "language model"
    aggregators: ClassVar[tuple[str, ...]] = ("mean",)
    classes_apart: ClassVar[bool] = True
    Config = DescriptorConfig
    config: DescriptorConfig

    def __init__(self, config: DescriptorConfig, setup: Setup) -> None:
        super().__init__(config, setup)
        self.model = setup.language_model
        self._states = TextStates(self.model)

    @property
    def rounds(self) -> int:
        """One: the fit is exact."""
        return 1

    def init_shared(self) -> PromptState:
        """Return zeros: nobody has sent a descriptor."""
        return PromptState({f"{PREFIX}{k}": torch.zeros(self.model.width + 1) for k in range(len(self.setup.classes))})

    def uploads(self, client: int, sent: PromptState) -> dict[str, Shape]:
        return {f"{PREFIX}{client}": (self.model.width + 1,)}

    def check_feasible(self, clients: Sequence[ClientData]) -> None:
        """Check that the clients are engines, each with grades of its own."""
        super().check_feasible(clients)
        for data in clients:
            if data.train.items and (data.client >= len(self.setup.classes) or not data.train.items[0].grades):
                raise ConfigError(
                    "method 'descriptor' needs clients that grade themselves for requests: use --task federated-search"
                )

    def train(self, broadcast: Broadcast, data: ClientData, personal: PromptState) -> tuple[Update, PromptState]:
        column = data.client
        pairs = [(item, item.grades[column]) for item in data.train.items if not math.isnan(item.grades[column])]
        features = self.features([item for item, _ in pairs]).double().cpu()
        grades = torch.tensor([grade for _, grade in pairs], dtype=torch.float64)
        fitted = ridge_fit(features, grades, self.config.ridge)
        errors = features @ fitted[:-1] + fitted[-1] - grades
        middle = grades.mean()
        agrees = ((errors + grades > middle) == (grades > middle)).double().mean()
        update = PromptState({f"{PREFIX}{data.client}": fitted.float()})
        loss = float(errors.square().mean()) if len(pairs) else 0.0
        return Update(data.client, update, len(pairs), loss, float(agrees) if len(pairs) else 0.0), personal

    def features(self, items: Sequence[Item]) -> Tensor:
        """Return unit features ``(items, width)``, each of which is computed once."""
        return F.normalize(self._states.of(items), dim=-1)

    @torch.no_grad()
    def logits(self, shared: PromptState, personal: PromptState, classes: Sequence[str], split: Split) -> Tensor:
        places = [self.setup.classes.index(name) if name in self.setup.classes else None for name in classes]
        nothing = torch.zeros(self.model.width + 1)
        chosen = [nothing if k is None else shared.get(f"{PREFIX}{k}", nothing) for k in places]
        descriptors = torch.stack(chosen).to(self.model.device)
        return self.features(split.items) @ descriptors[:, :-1].T + descriptors[:, -1]


def ridge_fit(features: Tensor, grades: Tensor, ridge: float) -> Tensor:
    """Return ``(w, b)`` ``(width + 1,)`` of least squares with a penalty on w, none on b; zeros without examples."""
    if not len(grades):
        return torch.zeros(features.shape[1] + 1, dtype=features.dtype)
    mean, level = features.mean(0), grades.mean()
    rows, rest = features - mean, grades - level
    if len(rows) < rows.shape[1]:  # the same solution from the smaller system
        weights = rows.T @ torch.linalg.solve(rows @ rows.T + ridge * torch.eye(len(rows), dtype=rows.dtype), rest)
    else:
        weights = torch.linalg.solve(rows.T @ rows + ridge * torch.eye(rows.shape[1], dtype=rows.dtype), rows.T @ rest)
    return torch.cat([weights, (level - mean @ weights)[None]])
