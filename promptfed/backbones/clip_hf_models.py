"""open_clip models with the architecture that a ``config.json`` of transformers describes."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from promptfed.backbones.clip_hf_config import LEGACY_EOS, ClipConfig, TowerConfig
from promptfed.backbones.clip_hf_weights import check_shapes
from promptfed.errors import FormatError

USUAL_EPS = 1e-5
SOME_SIGLIP = "vit_base_patch16_siglip_224"
"""A name that timm knows; open_clip makes image towers of timm by name only."""
PLACEHOLDER = {"image_size": 8, "patch_size": 8, "width": 8, "head_width": 8, "layers": 1}
"""An image tower that is replaced at once."""


def build_model(config: ClipConfig, tensors: Mapping[str, Tensor], dtype: torch.dtype) -> nn.Module:
    """Return the open_clip model of ``config`` with the weights ``tensors``, in the precision ``dtype``.

    Raises:
        FormatError: The weights do not fit.
    """
    with torch.device("meta"):  # without memory, and without drawing numbers: the weights are put in afterwards
        model = _empty_clip(config, dtype) if config.kind == "clip" else _empty_siglip(config, dtype)
    check_shapes(tensors, model.state_dict())
    model.load_state_dict(dict(tensors), assign=True)
    if config.kind == "clip":
        _fill_mask(model)
    if dtype != torch.float32:
        _lower(config, model, dtype)
    return model


def _empty_clip(config: ClipConfig, dtype: torch.dtype) -> nn.Module:
    from open_clip.model import CLIP

    text, images = config.text, config.images
    if (text.activation == "quick_gelu") != (images.activation == "quick_gelu"):
        raise FormatError(
            f"its towers have the activations {text.activation} and {images.activation}, of which open_clip takes one"
        )
    vision = {
        "image_size": config.image_size,
        "patch_size": config.patch_size,
        "head_width": images.width // images.heads,
        **_shape(images),
    }
    words = _words(config)
    if config.eos not in (LEGACY_EOS, config.vocabulary - 1):  # other words may have higher ids than the end token
        words |= {"pool_type": "eos", "eos_id": config.eos}
    model: nn.Module = CLIP(config.embed_dim, vision, words, **_options(config, dtype))
    return model


def _empty_siglip(config: ClipConfig, dtype: torch.dtype) -> nn.Module:
    from open_clip.model import CustomTextCLIP
    from open_clip.timm_model import TimmModel
    from timm.models.vision_transformer import VisionTransformer

    words = {**_words(config), "no_causal_mask": True, "pool_type": "last", "proj_bias": True}
    model: Any = CustomTextCLIP(config.embed_dim, PLACEHOLDER, words, init_logit_bias=0.0, **_options(config, dtype))
    tower = config.images
    model.visual = TimmModel(SOME_SIGLIP, config.embed_dim, config.image_size, pool="map", proj="none")
    model.visual.trunk = VisionTransformer(
        img_size=config.image_size,
        patch_size=config.patch_size,
        num_classes=0,
        global_pool="map",
        class_token=False,
        embed_dim=tower.width,
        depth=tower.layers,
        num_heads=tower.heads,
        mlp_ratio=_ratio(tower),
        norm_layer=partial(nn.LayerNorm, eps=tower.eps),
        act_layer=_activation(tower),
        weight_init="skip",
    )
    return model  # type: ignore[no-any-return]


def _words(config: ClipConfig) -> dict[str, Any]:
    """Return what open_clip calls the shape of a text tower."""
    return {
        "context_length": config.context_length,
        "vocab_size": config.vocabulary,
        "heads": config.text.heads,
        **_shape(config.text),
    }


def _shape(tower: TowerConfig) -> dict[str, Any]:
    """Return what open_clip calls the shape of a transformer."""
    return {
        "width": tower.width,
        "layers": tower.layers,
        "mlp_ratio": _ratio(tower),
        "norm_kwargs": None if tower.eps == USUAL_EPS else {"eps": tower.eps},
        "act_kwargs": {"approximate": "tanh"} if tower.activation == "gelu_pytorch_tanh" else None,
    }


def _options(config: ClipConfig, dtype: torch.dtype) -> dict[str, Any]:
    return {
        "quick_gelu": config.text.activation == "quick_gelu",
        "cast_dtype": None if dtype == torch.float32 else dtype,
    }


def _ratio(tower: TowerConfig) -> float:
    """Return the ratio of two widths; the product is rounded down by open_clip and timm."""
    return 4.0 if tower.inner == 4 * tower.width else (tower.inner + 0.5) / tower.width


def _activation(tower: TowerConfig) -> Any:
    from open_clip.transformer import QuickGELU

    kinds = {"quick_gelu": QuickGELU, "gelu": nn.GELU, "gelu_pytorch_tanh": partial(nn.GELU, approximate="tanh")}
    return kinds[tower.activation]


def _fill_mask(model: Any) -> None:
    """Make the causal mask, which is no weight and so still without memory."""
    length = len(model.positional_embedding)
    model.attn_mask = torch.full((length, length), float("-inf")).triu_(1)


def _lower(config: ClipConfig, model: Any, dtype: torch.dtype) -> None:
    """Bring the large matrices to ``dtype`` as open_clip does at loading; with a tower of timm, nearly all numbers."""
    from open_clip.model import convert_weights_to_lp
    from open_clip.transformer import LayerNormFp32

    if config.kind == "clip":
        convert_weights_to_lp(model, dtype)
        return
    wide = [part for part in model.modules() if isinstance(part, LayerNormFp32)]
    kept = {name: getattr(model, name).detach().clone() for name in ("logit_scale", "logit_bias")}
    model.to(dtype)
    for part in wide:
        part.float()
    for name, number in kept.items():
        getattr(model, name).data = number
