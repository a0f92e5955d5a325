"""A learned text context, which all CoOp-like methods share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from promptfed.asked_texts import AskedTexts, is_asked
from promptfed.backbones.base import ClassTokens, Position, PromptedText
from promptfed.class_losses import class_loss
from promptfed.class_sample import EVERY_CLASS, ClassSample
from promptfed.cosines import cosine_logits
from promptfed.errors import ConfigError
from promptfed.local_training import (
    FitMetrics,
    GradientMethod,
    LocalObjective,
    LocalTraining,
    Parameters,
    train_clients,
)
from promptfed.method import MethodConfig
from promptfed.prompt_state import PromptState
from promptfed.seeding import torch_stream
from promptfed.setup import Setup
from promptfed.types import Broadcast, ClientData

MOST_LISTS = 256
"""Lists of class names whose tokens are kept: there may be one for each client."""


class LabelSpace(MethodConfig):
    """Which classes a client's softmax runs over."""

    label_space: Literal["all", "own"] = Field(
        "all", description="a client's softmax runs over all base classes, or over its own classes only"
    )


class ContextConfig(LocalTraining, LabelSpace):
    """Options of a learned context."""

    n_ctx: int = Field(16, ge=1, le=64, description="number of context tokens (taken from `init` when that is given)")
    init: str = Field("", description="words to start from, such as 'a photo of a'; empty: N(0, 0.02)")
    class_specific: bool = Field(False, description="one context for each class (CSC) instead of one for all")
    position: Position = Field("end", description="where the class name stands among the context tokens")


def training_classes(
    label_space: Literal["all", "own"], setup: Setup, data: ClientData
) -> tuple[tuple[str, ...], Tensor]:
    """Return the class names that a client's softmax runs over, and its training labels ``(n,)`` among them.

    Args:
        label_space: "all" classes of the run, or the client's "own".
        setup: The run's agreement and model.
        data: The client's examples.
    """
    if label_space == "all":
        return setup.classes, data.train.labels
    return tuple(setup.classes[i] for i in data.classes), torch.searchsorted(
        torch.tensor(data.classes), data.train.labels
    )


def training_images(setup: Setup, data: ClientData) -> Tensor:
    """Return unit features ``(n, embed_dim)`` of a client's training images, from the cache."""
    return F.normalize(setup.features.images(data.train), dim=-1)


class ContextTuner:
    """Make, train and read the prompt ``{"ctx": (n_ctx, dim)}`` or, class-specific, ``(classes, n_ctx, dim)``."""

    def __init__(self, config: ContextConfig, setup: Setup) -> None:
        self.config, self.setup = config, setup
        self._tokens: dict[tuple[str, ...], ClassTokens] = {}
        self._words = setup.backbone.embed_words(config.init) if config.init else None
        if self._words is not None and not len(self._words):
            raise ConfigError(f"option 'init' is '{config.init}': no words to start from; try 'a photo of a'")
        self.n_ctx = config.n_ctx if self._words is None else len(self._words)

    def start(self, *purpose: str | int) -> PromptState:
        """Return the context to start from, drawn from the stream (seed, "context", *purpose).

        It is the same for all that give the same purpose.
        """
        ctx = self._words
        if ctx is None:
            noise = torch_stream(self.setup.seed, "context", *purpose)
            ctx = 0.02 * torch.randn(self.n_ctx, self.setup.backbone.text_dim, generator=noise)
        if self.config.class_specific:
            ctx = ctx.expand(len(self.setup.classes), -1, -1)
        return PromptState({"ctx": ctx})

    def tokens(self, classes: Sequence[str]) -> ClassTokens:
        """Tokenise class names with room for the context; the last lists of names are kept."""
        names = tuple(classes)
        if names not in self._tokens:
            tokens = self._tokenised(names)
            if len(self._tokens) >= MOST_LISTS:
                del self._tokens[next(iter(self._tokens))]
            self._tokens[names] = tokens
        return self._tokens[names]

    def _tokenised(self, names: tuple[str, ...]) -> ClassTokens:
        """Tokenise names; a tower that sees no padding has rows of all classes for some of them."""
        backbone, places = self.setup.backbone, {name: row for row, name in enumerate(self.setup.classes)}
        if backbone.reads_beginnings_once and len(names) < len(places) and places.keys() >= set(names):
            return self.tokens(self.setup.classes).select([places[name] for name in names]).cut()
        return backbone.class_tokens(names, self.n_ctx, self.config.position)

    def prompted(self, ctx: Tensor, classes: Sequence[str]) -> PromptedText:
        """Return the texts "<context> {class}." of ``classes``, to be encoded."""
        return PromptedText(self.context_for(ctx, classes), self.tokens(classes))

    def context_for(self, ctx: Tensor, classes: Sequence[str]) -> Tensor:
        """Return the context of each of ``classes``.

        Under class-specific contexts (CSC) a name outside the base classes gets the mean over the base classes. The
        paper leaves that case open.
        """
        if ctx.dim() == 2 or tuple(classes) == self.setup.classes:
            return ctx
        rows = {name: row for row, name in enumerate(self.setup.classes)}
        mean = ctx.mean(0)
        return torch.stack([ctx[rows[name]] if name in rows else mean for name in classes])

    def problem(self, prompt: PromptState, data: ClientData) -> LocalObjective:
        """Return CoOp's loss, cross-entropy of scaled cosines (or their sigmoid loss), on one client's images."""
        if is_asked(data.train):
            return self._asked_problem(prompt, data)
        classes, labels = training_classes(self.config.label_space, self.setup, data)
        images, scale = training_images(self.setup, data), self.setup.backbone.logit_scale
        fit = class_loss(self.config, self.setup, data)

        def texts(parameters: Parameters) -> list[PromptedText]:
            return [self.prompted(parameters["ctx"], classes)]

        def loss(
            parameters: Parameters, features: Sequence[Tensor], rows: Tensor, sample: ClassSample = EVERY_CLASS
        ) -> tuple[Tensor, Tensor]:
            return fit(labels, cosine_logits(images[rows], features[0], scale), rows, sample)

        return LocalObjective(prompt, labels, loss, texts)

    def _asked_problem(self, prompt: PromptState, data: ClientData) -> LocalObjective:
        """Return the cross-entropy of answers, each read together with its question."""
        classes, labels = training_classes(self.config.label_space, self.setup, data)
        images, scale = training_images(self.setup, data), self.setup.backbone.logit_scale
        asked = AskedTexts(data.train.items, classes)
        device = images.device

        def texts_of(parameters: Parameters, rows: Tensor) -> list[PromptedText]:
            return [self.prompted(parameters["ctx"], asked.names).select(asked.used(rows).to(device))]

        def loss(parameters: Parameters, features: Sequence[Tensor], rows: Tensor) -> tuple[Tensor, Tensor]:
            logits = asked.logits(images[rows], features[0], scale, rows)
            return F.cross_entropy(logits, labels.to(device)[rows]), logits

        return LocalObjective(prompt, labels, loss, is_mean=False, texts_of=texts_of)

    def train(self, prompt: PromptState, data: ClientData, round: int) -> tuple[PromptState, FitMetrics]:
        """Train ``prompt`` by CoOp's loss on one client's images."""
        return train_clients([(data.client, self.problem(prompt, data))], self.config, self.setup, round)[0]

    def texts(self, contexts: PromptState, classes: Sequence[str]) -> list[PromptedText]:
        """Return the texts of ``classes`` under each of ``contexts``, in the order of their names, to be encoded."""
        device = self.setup.backbone.device
        return [self.prompted(ctx.to(device), classes) for ctx in contexts.values()]

    @torch.no_grad()
    def class_features(self, prompt: PromptState, classes: Sequence[str]) -> Tensor:
        """Return unit text features ``(classes, embed_dim)`` float32."""
        text = self.prompted(prompt["ctx"].to(self.setup.backbone.device), classes)
        return F.normalize(self.setup.backbone.encode_prompted_texts([text])[0], dim=-1)


class ContextMethod(GradientMethod):
    """A method whose shared prompt is one text context, ``{"ctx": ...}``, made and read by its ``tuner``.

    It trains the context by CoOp's loss and predicts with it; a method overrides what it does otherwise.
    """

    trains: ClassVar[str] = "text context (n_ctx, dim)"
    classes_apart: ClassVar[bool] = True

    def __init__(self, config: ContextConfig, setup: Setup) -> None:
        super().__init__(config, setup)
        self.tuner = ContextTuner(config, setup)

    def init_shared(self) -> PromptState:
        return self.tuner.start()

    def problem(self, broadcast: Broadcast, data: ClientData, personal: PromptState) -> LocalObjective:
        return self.tuner.problem(broadcast.shared, data)

    def text_contexts(self, shared: PromptState, personal: PromptState) -> PromptState:
        return PromptState({"ctx": shared["ctx"]})

    def texts(self, shared: PromptState, personal: PromptState, classes: Sequence[str]) -> Sequence[PromptedText]:
        return self.tuner.texts(self.text_contexts(shared, personal), classes)
