"""A learned text context and its local training: the piece that every CoOp-like method shares."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from promptfed.backbones.base import ClassTokens, Position
from promptfed.errors import ConfigError, TrainingError
from promptfed.methods.base import MethodConfig, Setup, cosine_logits
from promptfed.prompts import PromptState
from promptfed.seeding import torch_stream
from promptfed.types import ClientData


class LocalTraining(MethodConfig):
    """How a client trains in one round. The optimiser starts afresh each round: its state never leaks between
    clients or outlives an overwritten prompt. The learning rate follows the round, not the client's own count."""

    optimizer: Literal["sgd", "adam"] = "adam"
    lr: float = Field(0.01, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1, description="of sgd")
    weight_decay: float = Field(0.0, ge=0)
    schedule: Literal["cosine", "constant"] = "cosine"
    local_epochs: int = Field(2, ge=1)
    batch_size: int = Field(32, ge=1)

    def rate(self, round: int, rounds: int) -> float:
        """Learning rate of ``round`` (from 1) out of ``rounds``."""
        if self.schedule == "constant":
            return self.lr
        return self.lr * 0.5 * (1 + math.cos(math.pi * (round - 1) / rounds))

    def optimizer_for(self, parameters: Sequence[Tensor], rate: float) -> torch.optim.Optimizer:
        if self.optimizer == "adam":
            return torch.optim.Adam(parameters, lr=rate, weight_decay=self.weight_decay)
        return torch.optim.SGD(parameters, lr=rate, momentum=self.momentum, weight_decay=self.weight_decay)


class ContextConfig(LocalTraining):
    """Options of a learned context."""

    n_ctx: int = Field(16, ge=1, le=64, description="number of context tokens (taken from `init` when that is given)")
    init: str = Field("", description="words to start from, such as 'a photo of a'; empty: N(0, 0.02)")
    class_specific: bool = Field(False, description="one context for each class (CSC) instead of one for all")
    position: Position = Field("end", description="where the class name stands among the context tokens")
    label_space: Literal["all", "own"] = Field(
        "all", description="a client's softmax runs over all base classes, or over its own classes only"
    )


class Fit:
    """Mean loss and accuracy over the samples that local training went through."""

    def __init__(self) -> None:
        self._loss = self._right = 0.0
        self._seen = 0

    def add(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        self._loss += loss.item() * len(labels)
        self._right += (logits.argmax(-1) == labels).sum().item()
        self._seen += len(labels)

    @property
    def loss(self) -> float:
        return self._loss / max(1, self._seen)

    @property
    def accuracy(self) -> float:
        return self._right / max(1, self._seen)


def train_locally(
    start: PromptState,
    logits_of: Callable[[dict[str, Tensor], Tensor], Tensor],
    labels: Tensor,
    config: LocalTraining,
    setup: Setup,
    round: int,
    client: int,
) -> tuple[PromptState, Fit]:
    """Minimise cross-entropy of ``logits_of(parameters, rows)`` over shuffled batches of the client's rows.

    Batches are drawn from the stream (seed, "batches", round, client).
    Raises TrainingError, naming client and round, at the first loss that is not finite.
    """
    device = setup.backbone.device
    parameters = {name: t.to(device, copy=True).requires_grad_(True) for name, t in start.items()}
    optimizer = config.optimizer_for(list(parameters.values()), config.rate(round, setup.rounds))
    shuffle = torch_stream(setup.seed, "batches", round, client)
    labels, fit = labels.to(device), Fit()
    for _ in range(config.local_epochs):
        for rows in torch.randperm(len(labels), generator=shuffle).split(config.batch_size):
            logits = logits_of(parameters, rows.to(device))
            loss = F.cross_entropy(logits, labels[rows])
            if not torch.isfinite(loss):
                raise TrainingError(
                    f"the loss of client {client} in round {round} is {loss.item()}; the last finished round is kept. "
                    f"Lower the learning rate (--set method.lr={config.lr / 10:g}) or use --precision float32"
                )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            fit.add(loss.detach(), logits.detach(), labels[rows])
    return PromptState(parameters), fit


class ContextTuner:
    """Makes, trains and reads the prompt ``{"ctx": (n_ctx, dim)}`` or, class-specific, ``(classes, n_ctx, dim)``."""

    def __init__(self, config: ContextConfig, setup: Setup) -> None:
        self.config, self.setup = config, setup
        self._tokens: dict[tuple[str, ...], ClassTokens] = {}
        self._words = setup.backbone.embed_words(config.init) if config.init else None
        if self._words is not None and not len(self._words):
            raise ConfigError(f"option 'init' is '{config.init}': no words to start from; try 'a photo of a'")
        self.n_ctx = config.n_ctx if self._words is None else len(self._words)

    def start(self) -> PromptState:
        """The context that everybody starts from, drawn from the stream (seed, "context")."""
        ctx = self._words
        if ctx is None:
            noise = torch_stream(self.setup.seed, "context")
            ctx = 0.02 * torch.randn(self.n_ctx, self.setup.backbone.text_dim, generator=noise)
        if self.config.class_specific:
            ctx = ctx.expand(len(self.setup.classes), -1, -1)
        return PromptState({"ctx": ctx})

    def tokens(self, classes: tuple[str, ...]) -> ClassTokens:
        if classes not in self._tokens:
            made = self.setup.backbone.class_tokens(classes, self.n_ctx, self.config.position)
            self._tokens[classes] = made
        return self._tokens[classes]

    def context_for(self, ctx: Tensor, classes: Sequence[str]) -> Tensor:
        """The context of each of ``classes``. A name outside the base classes has no context of its own under CSC
        and gets the mean over the base classes; the paper leaves that case open."""
        if ctx.dim() == 2 or tuple(classes) == self.setup.classes:
            return ctx
        known = {name: row for row, name in enumerate(self.setup.classes)}
        rest = ctx.mean(0)
        return torch.stack([ctx[known[name]] if name in known else rest for name in classes])

    def train(self, prompt: PromptState, data: ClientData, round: int) -> tuple[PromptState, Fit]:
        """Local training of ``prompt`` on one client's images (CoOp's loss: cross-entropy of scaled cosines)."""
        backbone, labels = self.setup.backbone, data.train.labels
        classes = self.setup.classes
        if self.config.label_space == "own":
            own = torch.tensor(data.classes)
            classes = tuple(classes[i] for i in data.classes)
            labels = torch.searchsorted(own, labels)
        images = F.normalize(self.setup.features.images(data.train).to(backbone.device), dim=-1)
        tokens = self.tokens(classes)

        def logits_of(parameters: dict[str, Tensor], rows: Tensor) -> Tensor:
            texts = backbone.encode_prompted_text(self.context_for(parameters["ctx"], classes), tokens)
            return cosine_logits(images[rows], texts, backbone.logit_scale)

        return train_locally(prompt, logits_of, labels, self.config, self.setup, round, data.client)

    @torch.no_grad()
    def class_features(self, prompt: PromptState, classes: Sequence[str]) -> Tensor:
        """Unit text features ``(classes, embed_dim)`` float32."""
        ctx = self.context_for(prompt["ctx"].to(self.setup.backbone.device), classes)
        return F.normalize(self.setup.backbone.encode_prompted_text(ctx, self.tokens(tuple(classes))).float(), dim=-1)
