"""FedPCL: clients train a projection of frozen features and exchange class prototypes (Tan et al., NeurIPS 2022)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from promptfed.errors import ConfigError
from promptfed.frozen_model import Kind
from promptfed.local_training import GradientTraining, LocalObjective, LocalSteps
from promptfed.method import METHODS, Shape
from promptfed.prompt_state import PromptState
from promptfed.prompts.prototypes import class_prototypes, contrast, contrast_to_clients, global_prototypes
from promptfed.prompts.text_states import TextStates
from promptfed.seeding import torch_stream
from promptfed.setup import Setup
from promptfed.types import Broadcast, ClientData, Split

PROTOTYPES, COUNTS, PROJECTION = "prototypes/", "counts/", "projection"


class FedPCLConfig(LocalSteps):
    """FedPCL's options."""

    lr: float = Field(0.001, gt=0, description="learning rate")
    dim: int | None = Field(None, ge=1, description="numbers of a projected feature; none: as many as the model's")
    temperature: float = Field(0.07, gt=0, description="of the cosines to prototypes")
    min_count: int = Field(
        3, ge=1, description="a class with fewer training examples has no prototype: the mean of one text shows it"
    )


@METHODS.register("fedpcl")
class FedPCL(GradientTraining):
    """Clients train a linear projection of the frozen model's features, and send class prototypes, no weights.

    With ``z = W f(x)``, the loss is the contrast of z with the global prototypes, ``-log softmax_c(cos(z, P_c) / t)``
    at the true class, plus the mean of the same over the clients whose prototypes have that class.

    Shared: ``prototypes/k`` ``(classes, dim)``, client k's mean unit z by class, and ``counts/k`` ``(classes,)``, of
    how many training examples; the server keeps those of all clients side by side. The global prototypes are their
    means weighted by counts. Before anybody has sent prototypes, a client's own take the place of all.
    Personal: ``projection`` W ``(dim, width)``. It starts the same for all: as the identity, or orthonormal rows. A
    client predicts by cosines to the global prototypes, and somebody who never took part does so with the start of W.
    A class that has no prototype is scored by its projected description where the model is an encoder, and never
    chosen elsewhere.

    Different from the paper: one frozen model, not several whose features are joined; a linear W without bias, and no
    hidden layer; cosines and unit features; prototypes of the texts after training, where the released code takes
    those that passed by in its last epoch; a minimum count. The code contrasts a prototype with the examples of a
    batch, the paper an example with prototypes, as here.
    """

    name: ClassVar[str] = "FedPCL"
    paper: ClassVar[str] = "Tan et al. 2022, NeurIPS, arXiv 2209.10083"
    trains: ClassVar[str] = "projection (dim, width), not sent; class prototypes (classes, dim) are"
    keeps: ClassVar[str] = "texts, projection"
    model_kind: ClassVar[Kind] = "language model"
    aggregators: ClassVar[tuple[str, ...]] = ("mean",)
    classes_apart: ClassVar[bool] = True
    Config = FedPCLConfig
    config: FedPCLConfig

    def __init__(self, config: FedPCLConfig, setup: Setup) -> None:
        super().__init__(config, setup)
        self.model = setup.language_model
        self.states = TextStates(self.model)

    # ------------------------------------------------------------------------------------------------ state

    @property
    def dim(self) -> int:
        """Numbers of a projected feature."""
        return self.config.dim or self.model.width

    def start(self) -> Tensor:
        """Return the projection ``(dim, width)`` before training."""
        if self.dim == self.model.width:
            return torch.eye(self.dim)
        stream = torch_stream(self.setup.seed, "fedpcl", PROJECTION)
        columns, rows = max(self.dim, self.model.width), min(self.dim, self.model.width)
        orthonormal: Tensor = torch.linalg.qr(torch.randn(columns, rows, generator=stream)).Q
        return orthonormal if self.dim > self.model.width else orthonormal.T

    def init_shared(self) -> PromptState:
        """Return zero counts: nobody has sent a prototype."""
        return PromptState(
            {n: torch.zeros(s) for k in range(len(self.setup.domains)) for n, s in self._client_shapes(k).items()}
        )

    def _client_shapes(self, client: int) -> dict[str, tuple[int, ...]]:
        classes = len(self.setup.classes)
        return {f"{PROTOTYPES}{client}": (classes, self.dim), f"{COUNTS}{client}": (classes,)}

    def uploads(self, client: int, sent: PromptState) -> dict[str, Shape]:
        return dict(self._client_shapes(client))

    def check_feasible(self, clients: Sequence[ClientData]) -> None:
        super().check_feasible(clients)
        most = max((max(data.train.counts(len(self.setup.classes))) for data in clients), default=0)
        if most < self.config.min_count:
            raise ConfigError(
                f"no client has {self.config.min_count} training examples of a class, so there is no prototype: raise "
                f"--shots, or --set method.min_count={max(1, most)}"
            )

    # --------------------------------------------------------------------------------------------- training

    def problem(self, broadcast: Broadcast, data: ClientData, personal: PromptState) -> LocalObjective:
        labels, features = data.train.labels.to(self.model.device), self.states.of(data.train.items)
        projection = personal[PROJECTION] if len(personal) else self.start()
        prototypes, counts = self._all(broadcast.shared)
        if not counts.any():
            prototypes, counts = (part[None] for part in self._prototypes(projection, data))
        means, totals = global_prototypes(prototypes, counts)
        temperature = self.config.temperature

        def loss(parameters: Mapping[str, Tensor], _: Sequence[Tensor], rows: Tensor) -> tuple[Tensor, Tensor]:
            z, answers = features[rows] @ parameters[PROJECTION].T, labels[rows]
            to_all = contrast(z, answers, means, totals, temperature)
            to_each = contrast_to_clients(z, answers, prototypes, counts, temperature)
            return (to_all + to_each).mean(), self._cosines(z, means, totals)

        return LocalObjective(PromptState({PROJECTION: projection}), data.train.labels, loss)

    def split_update(
        self, trained: PromptState, broadcast: Broadcast, data: ClientData, personal: PromptState
    ) -> tuple[PromptState, PromptState]:
        prototypes, counts = self._prototypes(trained[PROJECTION], data)
        return PromptState({f"{PROTOTYPES}{data.client}": prototypes, f"{COUNTS}{data.client}": counts}), trained

    def _prototypes(self, projection: Tensor, data: ClientData) -> tuple[Tensor, Tensor]:
        features = self.states.of(data.train.items)
        labels = data.train.labels.to(features.device)
        z = features @ projection.to(features.device).T
        return class_prototypes(z, labels, len(self.setup.classes), self.config.min_count)

    def _all(self, shared: PromptState) -> tuple[Tensor, Tensor]:
        """Return the prototypes of all clients ``(clients, classes, dim)``, and their counts ``(clients, classes)``."""
        names = [name.removeprefix(COUNTS) for name in shared if name.startswith(COUNTS)]
        if not names:
            classes = len(self.setup.classes)
            return torch.zeros(1, classes, self.dim), torch.zeros(1, classes)
        prototypes = torch.stack([shared[PROTOTYPES + name] for name in names]).to(self.model.device)
        counts = torch.stack([shared[COUNTS + name] for name in names]).to(self.model.device)
        return prototypes, counts.round().clamp(min=0)  # processors may have changed them

    # ------------------------------------------------------------------------------------------- prediction

    def _cosines(self, z: Tensor, prototypes: Tensor, counts: Tensor) -> Tensor:
        """Return ``cos / t`` ``(n, classes)``; -1 / t, the least there is, for a class without a prototype."""
        cosines = F.normalize(z, dim=-1) @ F.normalize(prototypes, dim=-1).T
        return torch.where(counts > 0, cosines, -1) / self.config.temperature

    @torch.no_grad()
    def logits(self, shared: PromptState, personal: PromptState, classes: Sequence[str], split: Split) -> Tensor:
        projection = (personal[PROJECTION] if len(personal) else self.start()).to(self.model.device)
        prototypes, counts = self._of_names(global_prototypes(*self._all(shared)), classes, projection)
        return self._cosines(self.states.of(split.items) @ projection.T, prototypes, counts)

    def _of_names(
        self, known: tuple[Tensor, Tensor], classes: Iterable[str], projection: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return a prototype and a count for each of ``classes``, also of those that the run does not know."""
        rows, counts = [], []
        for name in classes:
            place = self.setup.classes.index(name) if name in self.setup.classes else None
            if place is not None and known[1][place] > 0:
                rows.append(known[0][place])
                counts.append(1)
            else:
                is_described = not self.model.has_words
                rows.append(projection @ self.model.class_means([name])[0] if is_described else projection[:, 0] * 0)
                counts.append(int(is_described))
        return torch.stack(rows), torch.tensor(counts, device=projection.device)
