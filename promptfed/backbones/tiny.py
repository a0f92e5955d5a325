"""The bundled backbone `tiny`: a small CLIP for icons that ships inside the package and needs no network.

`scripts/train_tiny_clip.py` made its weights; the model card beside them tells how.
"""

from __future__ import annotations

import hashlib
import json
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load

from promptfed.backbones.openclip import OpenClipBackbone
from promptfed.backbones.placement import pick_device, pick_dtype
from promptfed.errors import BackboneError

REINSTALL = "reinstall the package: pip install --force-reinstall promptfed"


def load_tiny(
    *, device: str = "cpu", precision: str = "float32", folder: Traversable | None = None
) -> OpenClipBackbone:
    """The bundled weights, or those in another ``folder`` with ``weights.safetensors`` and ``config.json``.

    Raises BackboneError if a file is missing, or is not the one whose SHA-256 the config states.
    """
    pick_device(device)
    dtype = pick_dtype(precision)
    folder = files("promptfed.backbones.tiny_weights") if folder is None else folder
    try:
        config: dict[str, Any] = json.loads((folder / "config.json").read_text())
        weights = (folder / "weights.safetensors").read_bytes()
    except (OSError, ValueError) as error:
        raise BackboneError(f"backbone 'tiny' cannot be read from {folder}: {error}; {REINSTALL}") from error
    found = hashlib.sha256(weights).hexdigest()
    if found != config.get("sha256"):
        raise BackboneError(
            f"backbone 'tiny' is damaged: {folder / 'weights.safetensors'} has SHA-256 {found[:12]}..., "
            f"config.json says {str(config.get('sha256'))[:12]}...; {REINSTALL}"
        )

    from open_clip.model import CLIP, convert_weights_to_lp, set_model_preprocess_cfg
    from open_clip.tokenizer import SimpleTokenizer

    cast = None if dtype == torch.float32 else dtype
    try:
        with torch.random.fork_rng(devices=[]):  # building draws random numbers, which the weights then replace
            model = CLIP(**config["model_cfg"], cast_dtype=cast)
        model.load_state_dict(load(weights))
        set_model_preprocess_cfg(model, config["preprocess"])
        tokenizer = SimpleTokenizer(context_length=config["model_cfg"]["text_cfg"]["context_length"])
    except (KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise BackboneError(
            f"backbone 'tiny' in {folder} does not fit its config.json: {error}; {REINSTALL}"
        ) from error
    if cast is not None:
        convert_weights_to_lp(model, dtype)
    return OpenClipBackbone("tiny", model, tokenizer, device=device, precision=precision)
