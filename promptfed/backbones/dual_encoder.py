"""A backbone with its features, as the frozen model of a run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from promptfed.asked_texts import asked_scores, is_asked
from promptfed.backbones.base import Backbone
from promptfed.backbones.features import FeatureStore
from promptfed.errors import ConfigError
from promptfed.examples.base import Item
from promptfed.frozen_model import FrozenModel, Kind, OnPrepared
from promptfed.types import Split
from promptfed.usage import Usage


class DualEncoder(FrozenModel):
    """Image and text towers behind a store that computes every feature once."""

    kind: ClassVar[Kind] = "dual encoder"

    def __init__(self, features: FeatureStore) -> None:
        self.features = features

    @property
    def backbone(self) -> Backbone:
        return self.features.backbone

    @property
    def device(self) -> torch.device:
        return self.backbone.device

    @property
    def name(self) -> str:
        return self.backbone.name

    @property
    def fingerprint(self) -> str:
        return self.backbone.fingerprint

    @property
    def abilities(self) -> frozenset[str]:
        return frozenset(self.backbone.abilities)

    def check_offers(self, needed: Iterable[str], what: str) -> None:
        lacking = sorted(set(needed) - self.abilities)
        if lacking:
            raise ConfigError(
                f"{what} needs a backbone with {' and '.join(lacking)}, which '{self.name}' has not: "
                "use --backbone tiny or an open_clip ViT such as open_clip:ViT-B-16/openai"
            )

    def template_scores(self, template: str, split: Split, classes: Sequence[str]) -> Tensor:
        """Return scaled cosines between images and the class names, or questions with answers, in ``template``."""

        def features(names: Sequence[str]) -> Tensor:
            return self.features.texts([template.replace("{}", name.replace("_", " ")) for name in names])

        images, scale = self.features.images(split), self.backbone.logit_scale
        if is_asked(split):
            return asked_scores(split, classes, images, scale, features)
        return scale * F.normalize(images, dim=-1) @ F.normalize(features(classes), dim=-1).T

    def prepare(self, items: Sequence[Item], on_progress: OnPrepared | None = None, *, patches: bool = False) -> None:
        self.features.fill(items, on_progress, with_patches=patches)

    def usage(self) -> Usage:
        calls = self.backbone.calls
        return Usage(image_encoder_calls=calls.images, text_encoder_calls=calls.texts)

    def verify_frozen(self) -> None:
        self.backbone.verify_frozen()

    def describe(self) -> dict[str, Any]:
        return {"backbone": {"name": self.name, "fingerprint": self.fingerprint}}
