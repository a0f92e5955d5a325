"""How images are prepared for a backbone, in words that any program can follow: resize, crop, mean, std."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from promptfed.backbones.base import Backbone

TOLERANCE = 1e-5
"""How far a pixel may be from what the backbone itself makes."""


@dataclass(frozen=True)
class Preparation:
    """The steps between an RGB image and pixels ``(3, height, width)``.

    Attributes:
        resize: "shortest": the short side becomes ``size``; "squash": the image becomes ``size`` (height, width).
        size: See ``resize``.
        crop: Height and width that are cut from the middle.
        interpolation: A name of Pillow's ``Image.Resampling``, in lower case.
        mean: Of each colour, of values from 0 to 1; subtracted.
        std: Of each colour; divided by.
    """

    resize: str
    size: tuple[int, ...]
    crop: tuple[int, int]
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def recorded(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    def pixels(self, image: Image.Image) -> NDArray[np.float32]:
        """Return an RGB image as the pixels ``(3, height, width)`` that a model takes, by Pillow and numpy alone."""
        width, height = image.size
        if self.resize == "shortest":
            edge, short = self.size[0], min(width, height)
            width, height = int(edge * width / short), int(edge * height / short)
        else:
            height, width = self.size
        image = image.resize((width, height), Image.Resampling[self.interpolation.upper()])
        top, left = round((height - self.crop[0]) / 2), round((width - self.crop[1]) / 2)
        values = np.asarray(image, np.float32)[top : top + self.crop[0], left : left + self.crop[1]] / 255
        scaled = (values - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)
        return np.ascontiguousarray(scaled.transpose(2, 0, 1), dtype=np.float32)


def preparation_of(backbone: Backbone) -> Preparation | None:
    """Return how ``backbone`` prepares images; None if it does more than can be described so.

    What is described is tried on pictures of several shapes, and must give the backbone's own pixels.
    """
    described = _described(backbone.image_transform)
    if described is None:
        return None
    noise = np.random.default_rng(0)
    for height, width in ((320, 240), (231, 400), (500, 500)):
        picture = Image.fromarray(noise.integers(0, 256, (height, width, 3), dtype=np.uint8))
        expected = backbone.preprocess(picture).float().numpy()
        pixels = described.pixels(picture)
        if pixels.shape != expected.shape or float(np.abs(pixels - expected).max()) > TOLERANCE:
            return None
    return described


def _described(transform: Any) -> Preparation | None:
    """Read the steps of a ``Compose`` of torchvision: resize, perhaps a crop of the middle, normalise."""
    steps = {type(step).__name__: step for step in getattr(transform, "transforms", ())}
    resize, normalise = steps.get("Resize"), steps.get("Normalize")
    if resize is None or normalise is None:
        return None
    size = (resize.size,) if isinstance(resize.size, int) else tuple(map(int, resize.size))
    crop = tuple(map(int, steps["CenterCrop"].size)) if "CenterCrop" in steps else size
    if len(size) not in (1, 2) or len(crop) != 2:
        return None
    return Preparation(
        resize="shortest" if len(size) == 1 else "squash",
        size=size,
        crop=(crop[0], crop[1]),
        interpolation=str(resize.interpolation.value),
        mean=tuple(map(float, torch.as_tensor(normalise.mean).tolist())),
        std=tuple(map(float, torch.as_tensor(normalise.std).tolist())),
    )
