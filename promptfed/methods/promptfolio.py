"""PromptFolio: a portfolio of a shared and a personal context (Pan et al., NeurIPS 2024, arXiv 2409.19610)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from promptfed.backbones.base import PromptedText
from promptfed.class_losses import class_loss
from promptfed.class_sample import EVERY_CLASS, ClassSample
from promptfed.cosines import cosine_logits, mixed_features
from promptfed.local_training import LocalObjective, Parameters
from promptfed.method import METHODS
from promptfed.prompt_state import PromptState
from promptfed.prompts.text_context import ContextConfig, ContextMethod, training_classes, training_images
from promptfed.setup import Setup
from promptfed.types import Broadcast, ClientData


class PromptFolioConfig(ContextConfig):
    """Options of both contexts, and the weight of the personal one."""

    theta: float = Field(0.2, ge=0, le=1, description="weight of the personal context's features in training and use")


@METHODS.register("promptfolio")
class PromptFolio(ContextMethod):
    """Two contexts whose text features are mixed: ``T = (1 - theta) N(g(P_G)) + theta N(g(P_L))``; P_G is averaged.

    Shared: ``ctx`` P_G ``(n_ctx, dim)``. Personal: ``local`` P_L ``(n_ctx, dim)``, and ``theta`` ``(1,)``, which
    may be changed after training: ``blend`` does. Empty until a client first trains; then P_L starts from the same
    noise for everybody. Without a personal part, T is that of P_G alone.
    Different: scores are cosines to T, so T is brought back to unit length; the optimiser is PromptFL's.
    """

    name: ClassVar[str] = "PromptFolio"
    paper: ClassVar[str] = "Pan et al. 2024, arXiv 2409.19610"
    trains: ClassVar[str] = "two text contexts (n_ctx, dim), one of them sent"
    keeps: ClassVar[str] = "images, local context"
    takes_sigmoid_loss: ClassVar[bool] = True
    classes_apart: ClassVar[bool] = True
    Config = PromptFolioConfig

    def __init__(self, config: PromptFolioConfig, setup: Setup) -> None:
        super().__init__(config, setup)
        self.label_space, self.theta = config.label_space, config.theta

    def problem(self, broadcast: Broadcast, data: ClientData, personal: PromptState) -> LocalObjective:
        classes, labels = training_classes(self.label_space, self.setup, data)
        images, scale = training_images(self.setup, data), self.setup.backbone.logit_scale
        fit = class_loss(self.config, self.setup, data)
        local = personal["local"] if len(personal) else self.tuner.start("local")["ctx"]

        def texts(parameters: Parameters) -> list[PromptedText]:
            return [self.tuner.prompted(parameters[name], classes) for name in ("ctx", "local")]

        def loss(
            parameters: Parameters, features: Sequence[Tensor], rows: Tensor, sample: ClassSample = EVERY_CLASS
        ) -> tuple[Tensor, Tensor]:
            logits = cosine_logits(images[rows], portfolio(features, self.theta), scale)
            return fit(labels, logits, rows, sample)

        return LocalObjective(PromptState({**broadcast.shared, "local": local}), labels, loss, texts)

    def split_update(
        self, trained: PromptState, broadcast: Broadcast, data: ClientData, personal: PromptState
    ) -> tuple[PromptState, PromptState]:
        personal_parts = {"local": trained["local"], "theta": torch.tensor([self.theta])}
        return PromptState({"ctx": trained["ctx"]}), PromptState(personal_parts)

    def text_contexts(self, shared: PromptState, personal: PromptState) -> PromptState:
        return PromptState({"ctx": shared["ctx"], **({"local": personal["local"]} if len(personal) else {})})

    def joint_features(
        self, features: Sequence[Tensor], shared: PromptState, personal: PromptState, classes: Sequence[str]
    ) -> Tensor:
        return portfolio(features, personal["theta"].item()) if len(personal) else F.normalize(features[0], dim=-1)

    def blend(self, shared: PromptState, personal: PromptState, alpha: float) -> PromptState:
        """Scale theta by ``alpha``; features are mixed, so theta is free after training."""
        return PromptState({**personal, "theta": personal["theta"] * alpha})


def portfolio(features: Sequence[Tensor], theta: float) -> Tensor:
    """Return unit features ``(classes, embed_dim)`` of T, from those of P_G and P_L."""
    common, local = (F.normalize(texts, dim=-1) for texts in features)
    return mixed_features(common, local, theta)
