"""Soft resource descriptors: each engine learns when it is of use, from the requests that it has judged itself."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from promptfed.errors import ConfigError
from promptfed.examples.base import Item
from promptfed.frozen_model import Kind
from promptfed.method import METHODS, Method, MethodConfig, Shape
from promptfed.prompt_state import PromptState
from promptfed.prompts.text_states import TextStates
from promptfed.setup import Setup
from promptfed.types import Broadcast, ClientData, Split, Update

PREFIX = "descriptor/"
TABLE = "descriptors"


class DescriptorConfig(MethodConfig):
    """Options of the fit."""

    ridge: float = Field(1.0, gt=0, description="weight of the squared length of w beside the squared errors")
    table: bool = Field(
        False, description="send a table with a row for each engine, zeros but for one's own, which noise can hide"
    )


@METHODS.register("descriptor")
class Descriptor(Method):
    """Each engine fits its own grades: ``w . f(request) + b``, where f is the frozen encoder's unit feature.

    w and b minimise ``sum_i (w . f_i + b - g_i)^2 + ridge |w|^2`` over the client's judged requests, in closed form, in
    one round. Only they are sent, ``width + 1`` numbers, and no text. The server keeps the descriptors of all engines
    side by side, and a request is scored by all of them: it is sent to the engines with the greatest predicted grades.

    Shared: ``descriptor/k`` ``(width + 1,)``, of engine k. Personal: nothing. An engine that has sent nothing is
    predicted to be of no use.

    With ``table`` every client sends ``descriptors`` ``(engines, width + 1)``, zeros but for its own row. The mean is
    the table of all rows over the number of engines. So differential privacy of a client (``privacy.dp=client``, one
    release, clip C) hides an owner's judged requests from the other owners: its row is shortened to C, and all values
    get noise of z C. Secure sums and noise of the clients' own fit as well. Private runs have the table by default.
    """

    name: ClassVar[str] = "descriptor"
    paper: ClassVar[str] = "promptfed's own, for FeB4RAG: Wang et al. 2024, SIGIR, arXiv 2402.11891"
    trains: ClassVar[str] = "a descriptor (width + 1) of each engine"
    keeps: ClassVar[str] = "texts, grades"
    model_kind: ClassVar[Kind] = "language model"
    aggregators: ClassVar[tuple[str, ...]] = ("mean",)
    for_sums: ClassVar[Mapping[str, str]] = {"table": "true"}
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
        if self.config.table:
            return PromptState({TABLE: torch.zeros(len(self.setup.classes), self.model.width + 1)})
        return PromptState({f"{PREFIX}{k}": torch.zeros(self.model.width + 1) for k in range(len(self.setup.classes))})

    def uploads(self, client: int, sent: PromptState) -> dict[str, Shape]:
        if self.config.table:
            return {TABLE: (len(self.setup.classes), self.model.width + 1)}
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
        loss = float(errors.square().mean()) if len(pairs) else 0.0
        if self.config.table:
            rows = broadcast.shared[TABLE].clone()
            rows[column] = fitted.float()
            update = PromptState({TABLE: rows})
            samples = 1  # all rows have one weight: otherwise grades of two engines could not be compared
        else:
            update = PromptState({f"{PREFIX}{data.client}": fitted.float()})
            samples = len(pairs)
        return Update(data.client, update, samples, loss, float(agrees) if len(pairs) else 0.0), personal

    def features(self, items: Sequence[Item]) -> Tensor:
        """Return unit features ``(items, width)``, each of which is computed once."""
        return self._states.unit(items)

    @torch.no_grad()
    def logits(self, shared: PromptState, personal: PromptState, classes: Sequence[str], split: Split) -> Tensor:
        places = [self.setup.classes.index(name) if name in self.setup.classes else None for name in classes]
        nothing = torch.zeros(self.model.width + 1)
        known = descriptors_of(shared, len(self.setup.classes))
        chosen = [nothing if k is None else known.get(k, nothing) for k in places]
        descriptors = torch.stack(chosen).to(self.model.device)
        return self.features(split.items) @ descriptors[:, :-1].T + descriptors[:, -1]


def descriptors_of(shared: PromptState, engines: int) -> dict[int, Tensor]:
    """Return engine -> its descriptor ``(width + 1,)``, of those that a shared prompt has."""
    if TABLE in shared:
        return dict(enumerate(engines * shared[TABLE]))
    return {k: shared[f"{PREFIX}{k}"] for k in range(engines) if f"{PREFIX}{k}" in shared}


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
