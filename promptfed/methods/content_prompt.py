"""A prompt over frozen item vectors: what somebody chooses next, from texts of what they chose before."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from promptfed.errors import ConfigError
from promptfed.examples.base import Item
from promptfed.frozen_model import Kind
from promptfed.local_training import GradientTraining, LocalObjective, LocalSteps
from promptfed.method import METHODS
from promptfed.prompt_state import PromptState
from promptfed.seeding import torch_stream
from promptfed.setup import Setup
from promptfed.types import Broadcast, ClientData, Split

KEYS, VALUES, SCALE = "keys", "values", "log_scale"
SEEN = -1e4
"""The score of what was chosen before."""


class ContentPromptConfig(LocalSteps):
    """Options of the prompt."""

    lr: float = Field(0.02, gt=0, description="learning rate")
    n_prompts: int = Field(32, ge=1, description="rows of keys and values")
    last: int = Field(5, ge=1, description="choices that make the vector of a user")
    decay: float = Field(0.3, gt=0, le=1, description="weight of a choice beside that of the next; 1: all alike")


@METHODS.register("content_prompt")
class ContentPrompt(GradientTraining):
    """Clients tune keys K and values V that a user's vector attends to; the frozen encoder's item vectors stay.

    With e_j the centred unit vector of item j's text and s the mean of the last choices' vectors, the later ones with
    more weight, ``u = s + softmax(K s) V``, and item j scores ``exp(t) cos(u, e_j)``. The loss is cross-entropy over
    all items. What was chosen before is never recommended.

    Shared: ``keys`` and ``values`` ``(n_prompts, width)``, ``log_scale`` t. Personal: nothing. V starts at zero, so an
    untrained prompt recommends what is like the last choices.

    Different from the paper's light prompt: no projections and heads, so keys and values are apart; item vectors are
    an encoder's own, not sums of trained codes, and nothing but the prompt is trained; one stage, federated, where the
    paper tunes its prompts at each client alone.
    """

    name: ClassVar[str] = "content prompt"
    paper: ClassVar[str] = "after PFCR: Guo et al. 2024, WWW, arXiv 2401.14678"
    trains: ClassVar[str] = "keys and values (n_prompts, width), a scale"
    keeps: ClassVar[str] = "choices"
    model_kind: ClassVar[Kind] = "language model"
    Config = ContentPromptConfig
    config: ContentPromptConfig

    def __init__(self, config: ContentPromptConfig, setup: Setup) -> None:
        super().__init__(config, setup)
        self.model = setup.language_model
        self._vectors: dict[str, Tensor] = {}
        self._mean: Tensor | None = None

    def init_shared(self) -> PromptState:
        """Return keys that are drawn at random, values of zero, and a scale of 20."""
        stream = torch_stream(self.setup.seed, "content prompt")
        keys = torch.randn(self.config.n_prompts, self.model.width, generator=stream)
        start = {KEYS: keys, VALUES: torch.zeros_like(keys), SCALE: torch.tensor([math.log(20.0)])}
        return PromptState(start)

    def check_feasible(self, clients: Sequence[ClientData]) -> None:
        """Check that examples are histories."""
        super().check_feasible(clients)
        if any(data.train.items and not hasattr(data.train.items[0], "history") for data in clients):
            raise ConfigError("method 'content_prompt' needs histories of choices: use --task recommend")

    # ------------------------------------------------------------------------------------------- item vectors

    @torch.no_grad()
    def vectors(self, names: Sequence[str]) -> Tensor:
        """Return centred unit vectors ``(names, width)`` of items, with the mean of all that are trained on."""
        if self._mean is None:
            known = self.model.class_means(self.setup.classes)
            self._mean = known.mean(0)
            self._vectors |= zip(self.setup.classes, F.normalize(known - self._mean, dim=-1), strict=True)
        if lacking := [name for name in names if name not in self._vectors]:
            means = F.normalize(self.model.class_means(lacking) - self._mean, dim=-1)
            self._vectors |= zip(lacking, means, strict=True)
        return torch.stack([self._vectors[name] for name in names])

    def histories(self, items: Sequence[Item]) -> Tensor:
        """Return a vector ``(items, width)`` of each history."""
        rows = []
        for item in items:
            chosen = _history(item)[-self.config.last :]
            weights = torch.tensor([self.config.decay ** (len(chosen) - 1 - k) for k in range(len(chosen))])
            weights = weights.to(self.model.device)
            rows.append((weights @ self.vectors(chosen)) / weights.sum())
        return torch.stack(rows) if rows else torch.zeros(0, self.model.width, device=self.model.device)

    def _scores(self, prompt: Mapping[str, Tensor], histories: Tensor, items: Tensor) -> Tensor:
        keys, values, scale = (prompt[name].to(items) for name in (KEYS, VALUES, SCALE))
        users = histories + (histories @ keys.T).softmax(-1) @ values
        return scale.exp() * F.normalize(users, dim=-1) @ items.T

    # --------------------------------------------------------------------------------- training and prediction

    def problem(self, broadcast: Broadcast, data: ClientData, personal: PromptState) -> LocalObjective:
        labels = data.train.labels.to(self.model.device)
        items, histories = self.vectors(self.setup.classes), self.histories(data.train.items)

        def loss(prompt: Mapping[str, Tensor], _: Sequence[Tensor], rows: Tensor) -> tuple[Tensor, Tensor]:
            scores = self._scores(prompt, histories[rows], items)
            return F.cross_entropy(scores, labels[rows]), scores.detach()

        return LocalObjective(broadcast.shared, data.train.labels, loss)

    @torch.no_grad()
    def logits(self, shared: PromptState, personal: PromptState, classes: Sequence[str], split: Split) -> Tensor:
        scores = self._scores(shared, self.histories(split.items), self.vectors(classes))
        places = {name: k for k, name in enumerate(classes)}
        for row, item in zip(scores, split.items, strict=True):
            row[[places[name] for name in _history(item) if name in places]] = SEEN
        return scores


def _history(item: Item) -> tuple[str, ...]:
    history: tuple[str, ...] = getattr(item, "history", ())
    return history
