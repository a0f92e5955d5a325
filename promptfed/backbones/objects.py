"""A frozen model passed as an object of a Python program."""

from __future__ import annotations

from typing import Any

import torch

from promptfed.backbones.base import Backbone
from promptfed.backbones.text_tokenizers import is_tokenizer
from promptfed.errors import ConfigError
from promptfed.printable import printable

PRECISIONS = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"}
"""Number format of a model -> what a config calls it."""


def backbone_of(model: Any, device: str = "") -> Backbone:
    """Return ``model`` as a backbone.

    Args:
        model: A backbone; or an open_clip model with its tokenizer, or with its transform (of evaluation) as well, as
            a tuple in any order.
        device: Where an open_clip model is moved; empty: it stays where it is.

    Raises:
        ConfigError: It is nothing of the kind.
        BackboneError: The model is of a kind that cannot be prompted.
    """
    if isinstance(model, Backbone):
        return model
    parts = model if isinstance(model, tuple | list) else (model,)
    towers = [part for part in parts if isinstance(part, torch.nn.Module) and hasattr(part, "visual")]
    others = [part for part in parts if not any(part is tower for tower in towers)]
    tokenizers = [part for part in others if is_tokenizer(part)]
    transforms = [part for part in others if callable(part) and not is_tokenizer(part)]
    if len(towers) != 1 or len(tokenizers) != 1 or len(transforms) > 1:
        raise ConfigError(
            f"model is of type {printable(type(model).__name__)}: give a name, a promptfed Backbone, the tuple "
            "(open_clip model, its tokenizer, its transform of evaluation), or (language model of transformers, its "
            "tokenizer)"
        )
    from promptfed.backbones.openclip import OpenClipBackbone

    name = f"object:{type(towers[0]).__name__}"
    transform = transforms[0] if transforms else None
    precision = PRECISIONS.get(_dtype(towers[0]), "float32")
    device = device or str(next((p.device for p in towers[0].parameters()), "cpu"))
    return OpenClipBackbone(name, towers[0], tokenizers[0], device=device, precision=precision, transform=transform)


def precision_of(backbone: Backbone, default: str | None = None) -> str:
    """Return the config's word for ``backbone``'s precision, or ``other`` where it does not show one."""
    dtype = getattr(backbone, "_dtype", None)
    return PRECISIONS.get(dtype, default or "float32") if isinstance(dtype, torch.dtype) else default or "float32"


def _dtype(model: Any) -> torch.dtype:
    """Return the type of the image tower's projections: open_clip keeps its normalisation layers in float32."""
    return next((p.dtype for p in model.visual.parameters() if p.dtype != torch.float32), torch.float32)
