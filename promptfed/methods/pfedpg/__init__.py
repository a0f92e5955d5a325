"""pFedPG: the server's hyper-network makes a prompt for each client (Yang, Wang and Wang, ICCV 2023)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from promptfed.aggregators.base import Aggregator
from promptfed.backbones.base import PromptedText
from promptfed.class_losses import class_loss
from promptfed.class_sample import EVERY_CLASS, ClassSample
from promptfed.cosines import cosine_logits
from promptfed.errors import ConfigError
from promptfed.local_training import (
    GradientMethod,
    LocalObjective,
    LocalTraining,
    Parameters,
    train_clients,
)
from promptfed.method import METHODS
from promptfed.methods.pfedpg.hyper_network import HyperNetwork, descriptor_of, generate, mean_descriptor
from promptfed.prompt_state import PromptState
from promptfed.prompts.templates import HandTemplate, template_features
from promptfed.prompts.text_context import ContextConfig, ContextTuner, LabelSpace, training_classes, training_images
from promptfed.prompts.visual_prompt import prompted_images, start_visual, visual_features
from promptfed.seeding import torch_stream
from promptfed.setup import Setup
from promptfed.types import NO_PROMPT, Broadcast, ClientData, Split

DESCRIPTOR_RATE = 10.0
"""Factor of the learning rate when a descriptor is fitted alone: its numbers are ten times a prompt's."""


class PFedPGConfig(LocalTraining, LabelSpace, HandTemplate):
    """pFedPG's options; see docs/methods.md for the paper's values. ``template`` is for side "visual"."""

    side: Literal["visual", "text"] = Field("visual", description="which tower the prompt goes into")
    n_ctx: int = Field(10, ge=1, le=64, description="number of prompt tokens")
    server_optimizer: Literal["sgd", "adamw"] = Field("adamw", description="how the server steps on the hyper-network")
    server_lr: float = Field(0.01, gt=0, description="the server's learning rate; with sgd 1 is natural")


@METHODS.register("pfedpg")
class PFedPG(GradientMethod):
    """The server's hyper-network ``phi`` makes each client's prompt from a descriptor of the client.

    ``P_n = base + W_O Attn(W_Q d_n, W_K base, W_V base)``; client n trains it to ``P~_n`` and sends that.

    Shared, on the server only: ``base`` ``(n_ctx, width)``, a ``descriptor/n`` ``(width,)`` a client, and ``query``,
    ``key``, ``value``, ``out`` ``(width, width)``. Sent both ways: ``visual`` ``(n_ctx, vision_dim)``, or ``ctx``
    ``(n_ctx, text_dim)`` with side "text". Personal: nothing; a client deploys what it is sent. A client that never
    took part gets the prompt of the mean descriptor, or a better one by ``fit_descriptor``.

    The paper has a classification head for each client. CLIP needs none: the classes' text features take its place
    (in a hand-written template; side "text" prompts the text tower instead). The attention has one query, whose
    outcome is added to every token, as in an unofficial code; form, initialisation and newcomers' fit are inferred.
    """

    name: ClassVar[str] = "pFedPG"
    paper: ClassVar[str] = "Yang et al. 2023, ICCV, arXiv 2308.15367"
    trains: ClassVar[str] = "visual context (n_ctx, vision_dim) or text context; the server: a hyper-network"
    classes_apart: ClassVar[bool] = True
    aggregators: ClassVar[tuple[str, ...]] = ("mean",)
    takes_sigmoid_loss: ClassVar[bool] = True
    Config = PFedPGConfig
    config: PFedPGConfig

    def __init__(self, config: PFedPGConfig, setup: Setup) -> None:
        super().__init__(config, setup)
        if config.side == "visual" and "visual prompts" not in setup.backbone.abilities:
            raise ConfigError(
                f"method 'pfedpg' needs a backbone with visual prompts, which '{setup.backbone.name}' has not: use "
                "--backbone tiny or an open_clip ViT, or prompt the text tower: --set method.side=text"
            )
        self.sends = "visual" if config.side == "visual" else "ctx"
        self.tuner = ContextTuner(ContextConfig.model_validate({"n_ctx": config.n_ctx}), setup)

    def init_shared(self) -> PromptState:
        """Return ``base`` started as other methods' prompts, descriptors U(-1, 1), and random projections.

        Keys have unit variance, so that clients attend differently from round 1; the others start as linear layers do.
        """
        seed = self.setup.seed
        base = start_visual(self.setup, self.config.n_ctx, "pfedpg") if self.sends == "visual" else None
        base = self.tuner.start("pfedpg")["ctx"] if base is None else base
        width = base.shape[1]

        def uniform(bound: float, *shape: int, purpose: str) -> Tensor:
            return bound * (2 * torch.rand(shape, generator=torch_stream(seed, "pfedpg", purpose)) - 1)

        bounds = dict.fromkeys(("query", "key", "value", "out"), (3 / width) ** 0.5)
        bounds["key"] /= base.std().clamp(min=1e-3).item()
        clients = range(len(self.setup.domains))
        return PromptState(
            {
                "base": base,
                **{name: uniform(bound, width, width, purpose=name) for name, bound in bounds.items()},
                **{descriptor_of(n): uniform(1.0, width, purpose=descriptor_of(n)) for n in clients},
            }
        )

    def server_side(self, aggregator: Aggregator) -> Aggregator:
        return HyperNetwork(self.sends, self.config.server_optimizer, self.config.server_lr)

    # --------------------------------------------------------------------------------------------- training

    @property
    def encodes_texts(self) -> bool:
        return self.config.side == "text"

    def problem(self, broadcast: Broadcast, data: ClientData, personal: PromptState) -> LocalObjective:
        return self._problem(broadcast.shared, lambda parameters: parameters[self.sends], data)

    def fit_descriptor(self, phi: PromptState, data: ClientData, rounds: int | None = None) -> PromptState:
        """Fit the prompt of a client that was never in training, as ``broadcast`` would send it.

        Only its descriptor is fitted, on its own images from the mean descriptor on, with ``phi`` frozen, for
        ``rounds`` rounds of local training (by default those of the run). Nothing is sent.
        """
        device = self.setup.backbone.device
        network = {name: tensor.to(device) for name, tensor in phi.items()}
        start = PromptState({"descriptor": mean_descriptor(phi)})
        for round in range(1, (rounds or self.setup.rounds) + 1):
            problem = self._problem(start, lambda p: generate(network, p["descriptor"]), data)
            [(start, _)] = train_clients([(data.client, problem)], self.config, self.setup, round)
        return PromptState({self.sends: generate(phi, start["descriptor"])})

    def fit_newcomer(self, shared: PromptState, data: ClientData) -> PromptState:
        return self.fit_descriptor(shared, data)

    def _problem(self, start: PromptState, make: Callable[[Parameters], Tensor], data: ClientData) -> LocalObjective:
        """Return the loss of scaled cosines with the prompt that ``make`` makes."""
        classes, labels = training_classes(self.config.label_space, self.setup, data)
        scale = self.setup.backbone.logit_scale
        lr_multipliers, fit = {"descriptor": DESCRIPTOR_RATE}, class_loss(self.config, self.setup, data)
        if self.sends == "ctx":
            images = training_images(self.setup, data)

            def texts(parameters: Parameters) -> list[PromptedText]:
                return [self.tuner.prompted(make(parameters), classes)]

            def text_loss(
                parameters: Parameters, features: Sequence[Tensor], rows: Tensor, sample: ClassSample = EVERY_CLASS
            ) -> tuple[Tensor, Tensor]:
                return fit(labels, cosine_logits(images[rows], features[0], scale), rows, sample)

            return LocalObjective(start, labels, text_loss, texts, lr_multipliers)
        names = self._names(classes)

        def loss(parameters: Parameters, features: Sequence[Tensor], rows: Tensor) -> tuple[Tensor, Tensor]:
            prompted = prompted_images(self.setup, data.train, rows, make(parameters))
            return fit(labels, cosine_logits(prompted.features, names, scale), rows)

        return LocalObjective(start, labels, loss, lr_multipliers=lr_multipliers)

    # ------------------------------------------------------------------------------------------- prediction

    def _names(self, classes: Sequence[str]) -> Tensor:
        """Return unit features ``(classes, embed_dim)`` of the class names in the template; they never change."""
        return F.normalize(template_features(self.setup, classes, self.config.template), dim=-1)

    @property
    def reads_texts_only(self) -> bool:
        return self.sends == "ctx"

    def text_contexts(self, shared: PromptState, personal: PromptState) -> PromptState:
        return PromptState({"ctx": shared["ctx"]}) if self.sends == "ctx" else NO_PROMPT

    def texts(self, shared: PromptState, personal: PromptState, classes: Sequence[str]) -> Sequence[PromptedText]:
        return self.tuner.texts(self.text_contexts(shared, personal), classes)

    def joint_features(
        self, features: Sequence[Tensor], shared: PromptState, personal: PromptState, classes: Sequence[str]
    ) -> Tensor:
        return F.normalize(features[0], dim=-1) if features else self._names(classes)

    def logits(self, shared: PromptState, personal: PromptState, classes: Sequence[str], split: Split) -> Tensor:
        if self.sends == "ctx":
            return super().logits(shared, personal, classes, split)
        with torch.no_grad():
            images = visual_features(self.setup, split, shared["visual"])
            return cosine_logits(images.features, self._names(classes), self.setup.backbone.logit_scale)
