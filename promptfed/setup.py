"""What a method works with: the frozen model, and what all parties agree on before round 1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from promptfed.backbones.base import Backbone
from promptfed.backbones.features import FeatureStore
from promptfed.usage import Usage

if TYPE_CHECKING:
    from promptfed.blackbox.oracles.oracle import Oracle


@dataclass(frozen=True)
class Setup:
    """What all parties agree on before round 1. ``classes`` are the base classes, ``rounds`` the planned rounds.

    ``domains`` holds the domain of client k at position k, so its length is the number of clients. Black-box methods
    have an ``oracle``, and in the backbone's place one that refuses to work.
    """

    backbone: Backbone
    features: FeatureStore
    classes: tuple[str, ...]
    templates: tuple[str, ...]
    rounds: int
    seed: int
    domains: tuple[str, ...] = ()
    oracle: Oracle | None = None

    def usage(self) -> Usage:
        """What the frozen model was asked since it was loaded."""
        calls = self.backbone.calls
        white = Usage(image_encoder_calls=calls.images, text_encoder_calls=calls.texts)
        return white if self.oracle is None else white + self.oracle.usage

    def verify_frozen(self) -> None:
        """Raises BackboneError if a model that is held in this process is not what was loaded."""
        self.backbone.verify_frozen()
        if self.oracle is not None:
            self.oracle.verify_frozen()
