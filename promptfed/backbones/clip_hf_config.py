"""What ``config.json`` of a CLIP or SigLIP in transformers' format says, as far as it decides what the model computes.

Values that a file leaves out are those of transformers. What promptfed cannot compute alike is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from promptfed.errors import FormatError
from promptfed.printable import printable

PREFIX = "clip-hf:"
Kind = Literal["clip", "siglip"]
KINDS: tuple[Kind, ...] = ("clip", "siglip")
ACTIVATIONS = ("quick_gelu", "gelu", "gelu_pytorch_tanh")
LEGACY_EOS = 2
"""The end token in old files of CLIP: the text is then read at its largest id, which is the true end token's."""
LIMITS: Mapping[str, int] = {
    "hidden_size": 16_384, "intermediate_size": 65_536, "num_hidden_layers": 256, "num_attention_heads": 256,
    "vocab_size": 2_000_000, "max_position_embeddings": 4_096, "projection_dim": 16_384, "projection_size": 16_384,
    "image_size": 4_096, "patch_size": 1_024,
}  # fmt: skip
"""The largest number of each kind that is read: weights of this size must follow."""
TEXT: Mapping[Kind, Mapping[str, Any]] = {
    "clip": {
        "vocab_size": 49_408, "hidden_size": 512, "intermediate_size": 2_048, "num_hidden_layers": 12,
        "num_attention_heads": 8, "max_position_embeddings": 77, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5,
        "eos_token_id": 49_407,
    },
    "siglip": {
        "vocab_size": 32_000, "hidden_size": 768, "intermediate_size": 3_072, "num_hidden_layers": 12,
        "num_attention_heads": 12, "max_position_embeddings": 64, "hidden_act": "gelu_pytorch_tanh",
        "layer_norm_eps": 1e-6, "projection_size": None,
    },
}  # fmt: skip
IMAGES: Mapping[Kind, Mapping[str, Any]] = {
    "clip": {
        "hidden_size": 768, "intermediate_size": 3_072, "num_hidden_layers": 12, "num_attention_heads": 12,
        "image_size": 224, "patch_size": 32, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5,
    },
    "siglip": {
        "hidden_size": 768, "intermediate_size": 3_072, "num_hidden_layers": 12, "num_attention_heads": 12,
        "image_size": 224, "patch_size": 16, "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6,
        "vision_use_head": True,
    },
}  # fmt: skip


@dataclass(frozen=True)
class TowerConfig:
    """The transformer of one tower: its width, that between the two layers of a block, blocks, heads.

    ``activation`` is one of ``ACTIVATIONS``; ``eps`` is what a normalisation adds to the variance.
    """

    width: int
    inner: int
    layers: int
    heads: int
    activation: str
    eps: float


@dataclass(frozen=True)
class ClipConfig:
    """A CLIP or a SigLIP.

    Attributes:
        kind: Which of the two.
        text: The text tower's transformer.
        images: The image tower's.
        vocabulary: Rows of the table of token embeddings.
        context_length: Positions of a text.
        eos: The end token as the file says it (CLIP only); ``LEGACY_EOS`` stands for the largest id.
        image_size: Pixels of an image's side.
        patch_size: Pixels of a patch's side.
        embed_dim: Dimensions of the joint space.
    """

    kind: Kind
    text: TowerConfig
    images: TowerConfig
    vocabulary: int
    context_length: int
    eos: int
    image_size: int
    patch_size: int
    embed_dim: int


def parse_config(content: Any) -> ClipConfig:
    """Return what the JSON value ``content`` of a ``config.json`` says.

    Raises:
        FormatError: It is of another kind of model, or a value is not usable; one line that begins with what is wrong.
    """
    if not isinstance(content, dict):
        raise FormatError("config.json is not a JSON object")
    kind = content.get("model_type")
    if kind not in KINDS:
        more = ": its images have no fixed size" if kind == "siglip2" else ""
        raise FormatError(
            f"config.json says model_type '{printable(kind, 40)}'{more}; only {' and '.join(KINDS)} load (SigLIP 2 of "
            "one resolution is siglip)"
        )
    text, images = (_part(content, name, table[kind]) for name, table in (("text", TEXT), ("vision", IMAGES)))
    towers = [_tower(part, name) for part, name in ((text, "text_config"), (images, "vision_config"))]
    embed_dim = _embed_dim(kind, content, text, images)
    eos = text.get("eos_token_id", LEGACY_EOS)
    image_size, patch_size = (_count(images, name, "vision_config") for name in ("image_size", "patch_size"))
    if patch_size > image_size:
        raise FormatError(f"patches of {patch_size} pixels do not fit images of {image_size}")
    return ClipConfig(
        kind=kind,
        text=towers[0],
        images=towers[1],
        vocabulary=_count(text, "vocab_size", "text_config"),
        context_length=_count(text, "max_position_embeddings", "text_config"),
        eos=eos if isinstance(eos, int) and not isinstance(eos, bool) else LEGACY_EOS,
        image_size=image_size,
        patch_size=patch_size,
        embed_dim=embed_dim,
    )


def _part(content: Mapping[str, Any], name: str, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of one tower. Those of an old ``NAME_config_dict`` stand above the others."""
    part, older = content.get(f"{name}_config"), content.get(f"{name}_config_dict")
    part, older = ({} if value is None else value for value in (part, older))
    if not isinstance(part, dict) or not isinstance(older, dict):
        raise FormatError(f"{name}_config in config.json is not a JSON object")
    return {**defaults, **part, **({**defaults, **older} if older else {})}


def _tower(part: Mapping[str, Any], where: str) -> TowerConfig:
    width, inner, layers, heads = (
        _count(part, name, where)
        for name in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    )
    if width % heads:
        raise FormatError(f"{where} says {heads} heads for a width of {width}, which they do not divide")
    activation, eps = part["hidden_act"], part["layer_norm_eps"]
    if activation not in ACTIVATIONS:
        raise FormatError(
            f"{where} says hidden_act '{printable(activation, 40)}'; only {', '.join(ACTIVATIONS)} can be computed"
        )
    if not isinstance(eps, float) or not 0 < eps < 1:
        raise FormatError(f"{where} says layer_norm_eps '{printable(eps, 40)}', which is no small number")
    return TowerConfig(width, inner, layers, heads, activation, eps)


def _embed_dim(kind: Kind, content: Mapping[str, Any], text: Mapping[str, Any], images: Mapping[str, Any]) -> int:
    if kind == "clip":
        return _count({"projection_dim": content.get("projection_dim", 512)}, "projection_dim", "config.json")
    if images["vision_use_head"] is not True:
        raise FormatError("vision_config says vision_use_head false: such an image tower has no feature of an image")
    size = text["projection_size"]
    embed_dim = _count(text, "hidden_size" if size is None else "projection_size", "text_config")
    width = _count(images, "hidden_size", "vision_config")
    if embed_dim != width:
        raise FormatError(f"texts have {embed_dim} dimensions and images {width}")
    return embed_dim


def _count(part: Mapping[str, Any], name: str, where: str) -> int:
    value, most = part[name], LIMITS[name]
    if isinstance(value, list) and value and all(item == value[0] for item in value):  # a square's two sides
        value = value[0]
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        raise FormatError(f"{where} says {name} '{printable(value, 40)}'; a whole number from 1 to {most:,} is read")
    return value
