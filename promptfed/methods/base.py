"""What every method of the literature looks like to the federation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor
from torch.nn import functional as F

from promptfed.backbones.base import Backbone
from promptfed.backbones.features import FeatureStore
from promptfed.config import validate
from promptfed.prompts import PromptState
from promptfed.registry import Registry
from promptfed.types import NO_PROMPT, Broadcast, ClientData, Split, Update


class MethodConfig(BaseModel):
    """Base of every method's options: frozen, and unknown names are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


@dataclass(frozen=True)
class Setup:
    """What all parties agree on before round 1. ``classes`` are the base classes, ``rounds`` the planned rounds."""

    backbone: Backbone
    features: FeatureStore
    classes: tuple[str, ...]
    templates: tuple[str, ...]
    rounds: int
    seed: int


class Method(ABC):
    """A learner. It keeps no state between calls: shared and personal prompts come in and go out as values.

    A new method is one file with a ``MethodConfig`` and a subclass registered by ``@METHODS.register("name")``.
    """

    name: ClassVar[str]
    paper: ClassVar[str]
    Config: ClassVar[type[MethodConfig]] = MethodConfig

    def __init__(self, config: MethodConfig, setup: Setup) -> None:
        self.config, self.setup = config, setup

    @property
    def rounds(self) -> int:
        """Rounds this method needs, by default those of the run."""
        return self.setup.rounds

    def init_shared(self) -> PromptState:
        """The prompt the server starts from; empty for methods that share nothing."""
        return NO_PROMPT

    def init_personal(self, client: int) -> PromptState:
        """What ``client`` keeps to itself from the start; empty for methods without a personal part."""
        return NO_PROMPT

    @abstractmethod
    def train(self, broadcast: Broadcast, data: ClientData, personal: PromptState) -> tuple[Update, PromptState]:
        """One client's work in one round. Raises TrainingError if the loss is not finite."""

    @abstractmethod
    def class_features(self, shared: PromptState, personal: PromptState, classes: Sequence[str]) -> Tensor:
        """Unit text features ``(classes, embed_dim)`` of any class names, for evaluation and export; no gradient."""

    def logits(self, shared: PromptState, personal: PromptState, classes: Sequence[str], split: Split) -> Tensor:
        """Scores ``(n, classes)`` of the split's images; by default scaled cosines to ``class_features``."""
        with torch.no_grad():
            return cosine_logits(
                self.setup.features.images(split),
                self.class_features(shared, personal, classes),
                self.setup.backbone.logit_scale,
            )


def cosine_logits(image_features: Tensor, text_features: Tensor, scale: float) -> Tensor:
    """``scale * cos``: ``(n, dim)`` and ``(classes, dim)`` -> ``(n, classes)``."""
    return scale * F.normalize(image_features, dim=-1) @ F.normalize(text_features, dim=-1).T


METHODS: Registry[type[Method]] = Registry("method", "promptfed.methods")


def build_method(name: str, options: Mapping[str, Any], setup: Setup) -> Method:
    """The method called ``name`` with ``options``. Raises ConfigError for a name or an option that there is not."""
    kind = METHODS[name]
    return kind(validate(kind.Config, options, "method option"), setup)
