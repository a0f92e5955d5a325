"""TPFL and ATPFL: twin prompts, one for texts and one for images (Zhao et al. 2023, arXiv 2310.04455)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from promptfed.backbones.base import PromptedText
from promptfed.class_losses import class_loss
from promptfed.class_sample import EVERY_CLASS, ClassSample
from promptfed.cosines import cosine_logits
from promptfed.local_training import GradientMethod, LocalObjective, Parameters
from promptfed.method import METHODS
from promptfed.prompt_state import PromptState
from promptfed.prompts.text_context import ContextConfig, ContextTuner, training_classes
from promptfed.prompts.visual_prompt import prompted_images, start_visual, visual_features
from promptfed.setup import Setup
from promptfed.types import Broadcast, ClientData, Split

Penalty = Callable[[Tensor, Tensor], Tensor]
"""From a batch's image features ``(batch, embed_dim)`` and its rows of the client's data to a term of the loss."""


class TPFLConfig(ContextConfig):
    """TPFL's options; see docs/methods.md."""

    n_visual: int = Field(4, ge=1, le=64, description="number of visual prompt tokens at the input of the image tower")


class ATPFLConfig(TPFLConfig):
    """ATPFL's options; see docs/methods.md."""

    mu: float = Field(1.0, ge=0, description="weight of the contrastive term")
    temperature: float = Field(0.5, gt=0, description="of the contrastive term")


@METHODS.register("tpfl")
class TPFL(GradientMethod):
    """Clients train a text context (CoOp) and visual tokens at the input of the image tower (shallow VPT) together.

    The loss is the cross-entropy of scaled cosines; the server averages both.

    Shared: ``ctx`` ``(n_ctx, dim)`` (class-specific ``(classes, n_ctx, dim)``) and ``visual``
    ``(n_visual, vision_dim)``. Personal: nothing. Images are encoded with the prompt in training and in evaluation.
    Only the paper's abstract was at hand: shapes, numbers of tokens and optimiser are inferred.
    """

    name: ClassVar[str] = "TPFL"
    paper: ClassVar[str] = "Zhao et al. 2023, arXiv 2310.04455"
    trains: ClassVar[str] = "text context (n_ctx, dim), visual tokens (n_visual, vision_dim)"
    classes_apart: ClassVar[bool] = True
    requires: ClassVar[frozenset[str]] = frozenset({"visual prompts"})
    takes_sigmoid_loss: ClassVar[bool] = True
    Config: ClassVar[type[TPFLConfig]] = TPFLConfig

    def __init__(self, config: TPFLConfig, setup: Setup) -> None:
        super().__init__(config, setup)
        self.n_visual, self.label_space = config.n_visual, config.label_space
        self.tuner = ContextTuner(config, setup)

    def init_shared(self) -> PromptState:
        return PromptState({**self.tuner.start(), "visual": start_visual(self.setup, self.n_visual)})

    def problem(self, broadcast: Broadcast, data: ClientData, personal: PromptState) -> LocalObjective:
        classes, labels = training_classes(self.label_space, self.setup, data)
        scale, penalty = self.setup.backbone.logit_scale, self.penalty(broadcast.shared, data, personal)
        fit = class_loss(self.config, self.setup, data)

        def texts(parameters: Parameters) -> list[PromptedText]:
            return [self.tuner.prompted(parameters["ctx"], classes)]

        def loss(
            parameters: Parameters, features: Sequence[Tensor], rows: Tensor, sample: ClassSample = EVERY_CLASS
        ) -> tuple[Tensor, Tensor]:
            images = prompted_images(self.setup, data.train, rows, parameters["visual"]).features
            of_class, logits = fit(labels, cosine_logits(images, features[0], scale), rows, sample)
            return of_class if penalty is None else of_class + penalty(images, rows), logits

        return LocalObjective(broadcast.shared, labels, loss, texts)

    def penalty(self, shared: PromptState, data: ClientData, personal: PromptState) -> Penalty | None:
        """Return the term to add to the cross-entropy in this round, from the broadcast and the personal prompt."""
        return None

    def text_contexts(self, shared: PromptState, personal: PromptState) -> PromptState:
        return PromptState({"ctx": shared["ctx"]})

    def class_features(self, shared: PromptState, personal: PromptState, classes: Sequence[str]) -> Tensor:
        return self.tuner.class_features(shared, classes)

    @torch.no_grad()
    def logits(self, shared: PromptState, personal: PromptState, classes: Sequence[str], split: Split) -> Tensor:
        images = visual_features(self.setup, split, shared["visual"]).features
        texts = self.class_features(shared, personal, classes)
        return cosine_logits(images, texts, self.setup.backbone.logit_scale)


@METHODS.register("atpfl")
class ATPFL(TPFL):
    """TPFL with a contrastive term on image features.

    It draws an image's feature ``z`` under the prompt in training towards the one under the received prompt, ``z_g``,
    and away from the one under the client's own last prompt, ``z_p``:
    ``L = CE + mu * mean -log(e^{cos(z, z_g)/t} / (e^{cos(z, z_g)/t} + e^{cos(z, z_p)/t}))``.

    The abstract says "contrastive"; this form is inferred from MOON (Li et al., CVPR 2021). ``z_g`` and ``z_p`` do
    not change within a round and are encoded once in it.
    Shared: as TPFL. Personal: ``visual`` ``(n_visual, vision_dim)``, the visual tokens of the client's last update (its
    text context takes no part in ``z``). It serves training only: everybody predicts with the shared prompt. In a
    client's first round there is no last prompt and hence no contrastive term, whose gradient would be zero.
    """

    name: ClassVar[str] = "ATPFL"
    keeps: ClassVar[str] = "images, the client's last visual tokens"
    takes_sigmoid_loss: ClassVar[bool] = False
    Config = ATPFLConfig

    def __init__(self, config: ATPFLConfig, setup: Setup) -> None:
        super().__init__(config, setup)
        self.mu, self.temperature = config.mu, config.temperature

    def penalty(self, shared: PromptState, data: ClientData, personal: PromptState) -> Penalty | None:
        if not len(personal) or not self.mu:
            return None
        global_features = visual_features(self.setup, data.train, shared["visual"]).features
        previous = visual_features(self.setup, data.train, personal["visual"]).features

        def penalty(images: Tensor, rows: Tensor) -> Tensor:
            return self.mu * contrast(images, global_features[rows], previous[rows], self.temperature)

        return penalty

    def split_update(
        self, trained: PromptState, broadcast: Broadcast, data: ClientData, personal: PromptState
    ) -> tuple[PromptState, PromptState]:
        return trained, PromptState({"visual": trained["visual"]})


def contrast(features: Tensor, towards: Tensor, away: Tensor, temperature: float) -> Tensor:
    """Return the mean over rows of ``-log(e^{a/t} / (e^{a/t} + e^{b/t}))``; log 2 means no preference.

    Args:
        features: ``(n, dim)``.
        towards: ``(n, dim)``; a is the cosine of each feature to its row.
        away: ``(n, dim)``; b is the cosine to its row.
        temperature: t.
    """
    near = F.cosine_similarity(features, towards, dim=-1)
    far = F.cosine_similarity(features, away, dim=-1)
    return F.softplus((far - near) / temperature).mean()
