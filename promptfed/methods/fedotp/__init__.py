"""FedOTP: a global and a local context share an image's patches by optimal transport (Li et al., CVPR 2024)."""

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
from promptfed.local_training import LocalObjective, Parameters
from promptfed.method import METHODS
from promptfed.methods.fedotp.optimal_transport import LEAST_SMOOTHING, transport_plan
from promptfed.prompt_state import PromptState
from promptfed.prompts.personal_context import LOCAL, towards_personal
from promptfed.prompts.text_context import ContextConfig, ContextMethod, training_classes
from promptfed.types import Broadcast, ClientData, Split

CHUNK = 1 << 20
"""Entries of the similarities (images x classes x prompts x places) that are solved in one go at evaluation."""


class FedOTPConfig(ContextConfig):
    """Options of both contexts and of the transport."""

    mass: float = Field(0.8, gt=0, le=1, description="gamma: how much of the image is carried; 1 is balanced transport")
    smoothing: float = Field(0.1, ge=LEAST_SMOOTHING, description="epsilon: weight of the entropy")
    steps: int = Field(100, ge=1, description="most Sinkhorn iterations for one image and class")
    tolerance: float = Field(1e-3, gt=0, description="a problem is solved when its scaling changes by less than this")


@METHODS.register("fedotp")
class FedOTP(ContextMethod):
    """The score of a class is the similarity of the image's patches, transported to its two prompts.

    Shared: ``ctx`` ``(n_ctx, dim)``, averaged. Personal: ``local`` of the same shape, which never leaves; empty until
    a client first trains, and then begun from the same noise (or words) for everybody. With
    ``S (V, 2)`` the cosines of V patch features and the two prompted texts of a class, and ``Pi`` the plan of
    ``transport_plan(S)``: ``logit = scale * sum(Pi * S)``; no gradient goes through ``Pi``. Both contexts are
    trained by cross-entropy. Somebody who never took part carries the same mass to the global prompt alone.

    Different from the paper: patch features are computed once, without augmentation; a problem stops at a relative
    change of its own scaling, not at the batch's mean absolute one.
    """

    name: ClassVar[str] = "FedOTP"
    paper: ClassVar[str] = "Li et al. 2024, arXiv 2403.00041"
    trains: ClassVar[str] = "global and local text context, each (n_ctx, dim)"
    keeps: ClassVar[str] = "images, local context"
    classes_apart: ClassVar[bool] = True
    requires: ClassVar[frozenset[str]] = frozenset({"patch features"})
    Config = FedOTPConfig
    config: FedOTPConfig

    def problem(self, broadcast: Broadcast, data: ClientData, personal: PromptState) -> LocalObjective:
        classes, labels = training_classes(self.config.label_space, self.setup, data)
        patches = F.normalize(self.setup.features.patches(data.train), dim=-1)

        def texts(parameters: Parameters) -> list[PromptedText]:
            return [self.tuner.prompted(parameters[name], classes) for name in ("ctx", LOCAL)]

        def loss(
            parameters: Parameters, features: Sequence[Tensor], rows: Tensor, sample: ClassSample = EVERY_CLASS
        ) -> tuple[Tensor, Tensor]:
            logits = self._carried(patches[rows], torch.stack(list(features)))
            return cross_entropy_on(labels, logits, rows, sample)

        local = personal[LOCAL] if len(personal) else self.tuner.start(LOCAL)["ctx"]
        return LocalObjective(PromptState({**broadcast.shared, LOCAL: local}), labels, loss, texts)

    def split_update(
        self, trained: PromptState, broadcast: Broadcast, data: ClientData, personal: PromptState
    ) -> tuple[PromptState, PromptState]:
        return PromptState({"ctx": trained["ctx"]}), PromptState({LOCAL: trained[LOCAL]})

    def text_contexts(self, shared: PromptState, personal: PromptState) -> PromptState:
        return PromptState({"ctx": shared["ctx"], **({LOCAL: personal[LOCAL]} if len(personal) else {})})

    def class_features(self, shared: PromptState, personal: PromptState, classes: Sequence[str]) -> Tensor:
        """Return the mean direction of a class's prompts, for uses without patches; ``logits`` does not use it."""
        return F.normalize(self._prompts(shared, personal, classes).mean(0), dim=-1)

    def logits(self, shared: PromptState, personal: PromptState, classes: Sequence[str], split: Split) -> Tensor:
        with torch.no_grad():
            texts = self._prompts(shared, personal, classes)
            patches = self.setup.features.patches(split)
            if not len(patches):
                return patches.new_zeros(0, len(classes))
            images = max(1, CHUNK // (len(texts) * len(classes) * patches.shape[1]))
            return torch.cat([self._carried(F.normalize(part, dim=-1), texts) for part in patches.split(images)])

    def blend(self, shared: PromptState, personal: PromptState, alpha: float) -> PromptState | None:
        """Move the local context to the global one; two equal prompts score as the global one alone does."""
        return towards_personal(shared, personal, alpha)

    def _carried(self, patches: Tensor, texts: Tensor) -> Tensor:
        """Return logits ``(batch, classes)`` of unit ``(batch, places, dim)`` and any ``(prompts, classes, dim)``."""
        similarity = torch.einsum("bvd,kcd->bckv", patches, F.normalize(texts, dim=-1))
        config = self.config
        plan = transport_plan(similarity, config.mass, config.smoothing, config.steps, config.tolerance)
        return self.setup.backbone.logit_scale * (plan * similarity).sum((-2, -1))

    def _prompts(self, shared: PromptState, personal: PromptState, classes: Sequence[str]) -> Tensor:
        """Return unit features ``(prompts, classes, dim)`` of the global prompt and of any local one."""
        contexts = [shared["ctx"], *([personal[LOCAL]] if len(personal) else [])]
        return torch.stack([self.tuner.class_features(PromptState({"ctx": ctx}), classes) for ctx in contexts])
