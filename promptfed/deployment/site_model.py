"""The frozen model of a run over sites, as the server and every site load it."""

from __future__ import annotations

from promptfed.backbones.dual_encoder import DualEncoder
from promptfed.backbones.features import FeatureStore
from promptfed.backbones.text_tower_cache import load_text_tower
from promptfed.config import RunConfig
from promptfed.frozen_model import FrozenModel
from promptfed.named_model import named_model
from promptfed.objects import NO_OBJECTS
from promptfed.prompt_template import PromptTemplate


def site_model(config: RunConfig, form: PromptTemplate | None) -> FrozenModel:
    """Load the model of ``config``: of a dual encoder the text tower, as features may be in the cache.

    Args:
        config: The options, with device and path of this machine.
        form: How examples are put to it; None for images.

    Raises:
        ConfigError: Name, device or precision are unknown.
        BackboneError: The weights are not available.
    """
    if named_model(config).kind == "dual encoder":
        return DualEncoder(
            FeatureStore(load_text_tower(config.backbone, device=config.device, precision=config.precision))
        )
    return NO_OBJECTS.model_of(config, form)


def model_sentence(model: FrozenModel) -> str:
    """Return a line by which people compare the models of two machines."""
    return f"'{model.name}' loads, fingerprint {model.fingerprint[:12]}"
