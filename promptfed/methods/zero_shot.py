"""The baseline without training: class names in the best of several hand-written templates (Radford et al. 2021)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from promptfed.methods.base import METHODS, Method, cosine_logits
from promptfed.methods.templates import template_features
from promptfed.prompts import PromptState
from promptfed.types import Broadcast, ClientData, Update


@METHODS.register("zero_shot")
class ZeroShot(Method):
    """The template is chosen on validation data, in one federated round: each client scores every template on its own
    validation images over all base classes, the server averages the scores by sample count.

    Shared: ``accuracy`` ``(templates,)``. Personal: nothing. Ties go to the template that stands first.
    """

    name: ClassVar[str] = "zero-shot"
    paper: ClassVar[str] = "CLIP: Radford et al. 2021, arXiv 2103.00020"
    trains: ClassVar[str] = "nothing; the best template is chosen"
    aggregators: ClassVar[tuple[str, ...]] = ("mean",)

    @property
    def rounds(self) -> int:
        return 1

    def init_shared(self) -> PromptState:
        return PromptState({"accuracy": torch.zeros(len(self.setup.templates))})

    def train(self, broadcast: Broadcast, data: ClientData, personal: PromptState) -> tuple[Update, PromptState]:
        judged = data.val if len(data.val) else data.train
        images = self.setup.features.images(judged)
        right, loss = [], []
        for template in self.setup.templates:
            texts = template_features(self.setup, self.setup.classes, template)
            logits = cosine_logits(images, texts, self.setup.backbone.logit_scale)
            right.append((logits.argmax(-1).cpu() == judged.labels).float().mean())
            loss.append(F.cross_entropy(logits.cpu(), judged.labels).item())
        scores = torch.stack(right)
        best = int(scores.argmax())
        scored = PromptState({"accuracy": scores})
        return Update(data.client, scored, len(judged), loss[best], scores[best].item()), personal

    def template(self, shared: PromptState) -> str:
        """The template with the best validation accuracy."""
        return self.setup.templates[int(shared["accuracy"].argmax())]

    def class_features(self, shared: PromptState, personal: PromptState, classes: Sequence[str]) -> Tensor:
        return F.normalize(template_features(self.setup, classes, self.template(shared)), dim=-1)
