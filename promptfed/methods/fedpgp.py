"""FedPGP: a shared context plus a personal low-rank part (Cui et al., ICML 2024, arXiv 2405.09771)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from promptfed.backbones.base import PromptedText
from promptfed.class_losses import cross_entropy_on
from promptfed.class_sample import EVERY_CLASS, ClassSample
from promptfed.cosines import cosine_logits
from promptfed.local_training import GradientMethod, LocalObjective, Parameters
from promptfed.method import METHODS
from promptfed.prompt_state import PromptState
from promptfed.prompts.templates import HandTemplate, template_features
from promptfed.prompts.text_context import ContextConfig, ContextTuner, training_classes, training_images
from promptfed.seeding import torch_stream
from promptfed.setup import Setup
from promptfed.types import Broadcast, ClientData


class FedPGPConfig(ContextConfig, HandTemplate):
    """Options of the context, its personal part and the contrastive term."""

    rank: int = Field(4, ge=1, description="rank of the personal part")
    mu: float = Field(1.0, ge=0, description="weight of the contrastive term")
    tau: float = Field(0.5, gt=0, description="temperature of the contrastive term")


@METHODS.register("fedpgp")
class FedPGP(GradientMethod):
    """``ctx = sigma + U V``: a part that all learn together, and a low-rank part of each client.

    Shared: ``sigma`` ``(n_ctx, dim)``. Personal: ``u`` ``(n_ctx, rank)``, ``v`` ``(rank, dim)``.
    Loss: cross-entropy with ctx, plus mu times a contrastive term that holds sigma to the hand-written sentence and
    keeps ctx away from sigma; see ``contrast``.
    Different: one prompt for each class (N = 1); T_0 is the feature of a hand-written sentence, computed once, where
    the released code encodes a row of X; the optimiser is PromptFL's. The released code draws U, V and
    sigma all from N(0, 0.02); here U is noise, the same for everybody, and V is zero, so that a client's first step
    starts from sigma. Without a personal part: sigma.
    """

    name: ClassVar[str] = "FedPGP"
    paper: ClassVar[str] = "Cui et al. 2024, arXiv 2405.09771"
    trains: ClassVar[str] = "text context (n_ctx, dim); low-rank (n_ctx, rank) x (rank, dim)"
    keeps: ClassVar[str] = "images, low-rank part"
    classes_apart: ClassVar[bool] = True
    Config = FedPGPConfig

    def __init__(self, config: FedPGPConfig, setup: Setup) -> None:
        super().__init__(config, setup)
        self.tuner, self.label_space, self.template = ContextTuner(config, setup), config.label_space, config.template
        self.rank, self.mu, self.tau = config.rank, config.mu, config.tau

    def init_shared(self) -> PromptState:
        return PromptState({"sigma": self.tuner.start()["ctx"]})

    def problem(self, broadcast: Broadcast, data: ClientData, personal: PromptState) -> LocalObjective:
        classes, labels = training_classes(self.label_space, self.setup, data)
        images, scale = training_images(self.setup, data), self.setup.backbone.logit_scale
        hand = template_features(self.setup, classes, self.template)
        local = personal if len(personal) else self._low_rank_start()

        def texts(parameters: Parameters) -> list[PromptedText]:
            return [self.tuner.prompted(ctx, classes) for ctx in (personalised(parameters), parameters["sigma"])]

        def loss(
            parameters: Parameters, features: Sequence[Tensor], rows: Tensor, sample: ClassSample = EVERY_CLASS
        ) -> tuple[Tensor, Tensor]:
            personalized, common = features
            logits = cosine_logits(images[rows], personalized, scale)
            entropy, _ = cross_entropy_on(labels, logits, rows, sample)
            return entropy + self.mu * contrast(sample.of(hand), common, personalized, self.tau, sample), logits

        return LocalObjective(PromptState({**broadcast.shared, **local}), labels, loss, texts)

    def _low_rank_start(self) -> PromptState:
        noise = torch_stream(self.setup.seed, "low rank")
        return PromptState(
            {
                "u": 0.02 * torch.randn(self.tuner.n_ctx, self.rank, generator=noise),
                "v": torch.zeros(self.rank, self.setup.backbone.text_dim),
            }
        )

    def split_update(
        self, trained: PromptState, broadcast: Broadcast, data: ClientData, personal: PromptState
    ) -> tuple[PromptState, PromptState]:
        shared = {name: trained[name] for name in broadcast.shared}
        return PromptState(shared), PromptState({name: trained[name] for name in ("u", "v")})

    def text_contexts(self, shared: PromptState, personal: PromptState) -> PromptState:
        return PromptState({"ctx": personalised({**shared, **personal}) if len(personal) else shared["sigma"]})

    def texts(self, shared: PromptState, personal: PromptState, classes: Sequence[str]) -> Sequence[PromptedText]:
        return self.tuner.texts(self.text_contexts(shared, personal), classes)

    def blend(self, shared: PromptState, personal: PromptState, alpha: float) -> PromptState:
        """Return ``sigma + alpha U V``, the straight path from sigma to ctx."""
        return PromptState({**personal, "u": personal["u"] * alpha})


def personalised(parts: Parameters) -> Tensor:
    """Return ``sigma + U V``."""
    return parts["sigma"] + parts["u"] @ parts["v"]


def contrast(hand: Tensor, common: Tensor, personal: Tensor, tau: float, sample: ClassSample = EVERY_CLASS) -> Tensor:
    """Return the mean over classes of ``-log(e^p / (e^p + e^q))`` (FedPGP's contrastive term).

    ``p = cos(T_0, T_sigma) / tau`` and ``q = cos(T_sigma, T_ctx) / tau``.

    Args:
        hand: T_0, the features of the hand-written sentences, ``(classes, embed_dim)``.
        common: T_sigma, those of the shared context.
        personal: T_ctx, those of the client's context.
        tau: Temperature.
        sample: The classes of the rows.
    """
    positive, negative = F.cosine_similarity(hand, common), F.cosine_similarity(common, personal)
    return sample.mean(F.softplus((negative - positive) / tau))
