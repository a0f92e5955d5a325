"""A method by its name: its options read, and whether the model at hand will do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from promptfed.backbones.base import Backbone
from promptfed.config import validate
from promptfed.errors import ConfigError
from promptfed.method import METHODS, Method
from promptfed.setup import Setup

if TYPE_CHECKING:
    from promptfed.blackbox.oracles.oracle import Oracle


def check_model_fits(name: str, backbone: Backbone, oracle: Oracle | None = None) -> None:
    """Raises ConfigError, naming models that would do, if the backbone or oracle lacks what method ``name`` needs."""
    if oracle is not None:
        oracle.check_offers(METHODS[name].requires, f"method '{name}'")
        return
    lacking = sorted(METHODS[name].requires - backbone.abilities)
    if lacking:
        raise ConfigError(
            f"method '{name}' needs a backbone with {' and '.join(lacking)}, which '{backbone.name}' has not: "
            "use --backbone tiny or an open_clip ViT such as open_clip:ViT-B-16/openai"
        )


def build_method(name: str, options: Mapping[str, Any], setup: Setup) -> Method:
    """The method called ``name`` with ``options``.

    Raises ConfigError for a name or an option that there is not, and for a backbone that does not fit.
    """
    kind = METHODS[name]
    check_model_fits(name, setup.backbone, setup.oracle)
    return kind(validate(kind.Config, options, "method option"), setup)
