"""The bundled backbone `tiny`: a small CLIP for icons that ships inside the package and needs no network.

`scripts/train_tiny_clip.py` made its weights; see the model card beside them.
"""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from promptfed.backbones.device import pick_device, pick_dtype
from promptfed.backbones.openclip import OpenClipBackbone
from promptfed.backbones.undrawn import Undrawn
from promptfed.bundled_weights import REINSTALL, read_weights
from promptfed.errors import BackboneError, FormatError
from promptfed.readers.tensors import parse_tensors

if TYPE_CHECKING:
    from open_clip.tokenizer import SimpleTokenizer

LOOK = "look-1"
"""Version of ``look``; part of the fingerprint, to be changed with it."""
SIZE = 48
"""Pixels along each side of the tower's input."""


def look(pixels: Tensor) -> Tensor:
    """Extract an icon's shape: ``(3, height, width)`` of any scale -> ``(3, SIZE, SIZE)`` in -2 .. 2.

    Each pixel's value is its largest difference, over the colours, to the picture's median colour; the faintest fifth
    of the range (noise) is cut off and the strongest 2 % become white. The sign does not matter: dark on light looks
    like light on dark. The bright part, without single specks, is scaled to fill the frame. So a model this small does
    not have to learn that colour, place and size mean nothing.
    """
    middle = pixels.flatten(1).median(dim=1).values[:, None, None]
    difference = (pixels - middle).abs().amax(0)
    strongest = difference.flatten().quantile(0.98).clamp(min=1e-3)
    shown = filled(((difference / strongest - 0.2) / 0.8).clamp(0, 1))
    return ((shown - 0.5) / 0.25).expand(3, -1, -1)


def filled(picture: Tensor) -> Tensor:
    """Crop ``(height, width)`` in 0..1 to its bright part (all of it if none) and fit it into ``(SIZE, SIZE)``."""
    bright = F.avg_pool2d(picture[None], 3, stride=1, padding=1)[0] > 0.3
    rows, columns = bright.any(1).nonzero().flatten(), bright.any(0).nonzero().flatten()
    part = picture[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] if len(rows) else picture
    scale = SIZE / max(part.shape)
    height, width = (max(1, round(side * scale)) for side in part.shape)
    part = F.interpolate(part[None, None], (height, width), mode="bilinear", antialias=True)[0, 0]
    frame = torch.zeros(SIZE, SIZE)
    top, left = (SIZE - height) // 2, (SIZE - width) // 2
    frame[top : top + height, left : left + width] = part
    return frame


class TinyBackbone(OpenClipBackbone):
    """An open_clip model that sees pictures through ``look``."""

    @property
    def image_transform(self) -> Any:
        return None  # ``look`` comes behind it

    def preprocess(self, image: Image.Image) -> Tensor:
        return look(super().preprocess(image))

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(f"{super().fingerprint}|{LOOK}".encode()).hexdigest()


def load_tiny(*, device: str = "cpu", precision: str = "float32", folder: Traversable | None = None) -> TinyBackbone:
    """Load the bundled weights, or those in another ``folder`` with ``weights.safetensors`` and ``config.json``.

    Raises:
        BackboneError: A file is missing, or its SHA-256 is not the one in the config.
    """
    pick_device(device)
    dtype = pick_dtype(precision)
    folder = files("promptfed.backbones.tiny_weights") if folder is None else folder
    config, weights = read_weights("tiny", folder)

    from open_clip.model import CLIP, convert_weights_to_lp, set_model_preprocess_cfg

    cast = None if dtype == torch.float32 else dtype
    try:
        # Building draws random numbers, which the weights then replace: most are skipped, the rest are private.
        with torch.random.fork_rng(devices=[]), Undrawn():
            model = CLIP(**config["model_cfg"], cast_dtype=cast)
        model.load_state_dict(parse_tensors(weights))
        set_model_preprocess_cfg(model, config["preprocess"])
        tokenizer = _tokenizer(config["model_cfg"]["text_cfg"]["context_length"])
    except (KeyError, TypeError, RuntimeError, FormatError) as error:
        raise BackboneError(
            f"backbone 'tiny' in {folder} does not fit its config.json: {error}; {REINSTALL}"
        ) from error
    if cast is not None:
        convert_weights_to_lp(model, dtype)
    return TinyBackbone("tiny", model, tokenizer, device=device, precision=precision)


@cache
def _tokenizer(context_length: int) -> SimpleTokenizer:
    """Return CLIP's tokenizer, read once in a process: its 49,000 pieces take longer than the weights."""
    from open_clip.tokenizer import SimpleTokenizer

    return SimpleTokenizer(context_length=context_length)
