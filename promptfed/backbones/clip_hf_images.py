"""Image preparation as ``preprocessor_config.json`` of transformers describes it.

What open_clip can say in its own words is said so: then the same weights have the same features, under whatever name
they were loaded. A picture whose sides differ by an odd number after resizing is cropped one pixel further by
transformers in every other case: it rounds the margin down, torchvision to the nearest even number.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from PIL import Image
from torch import Tensor

from promptfed.backbones.clip_hf_config import ClipConfig, Kind
from promptfed.errors import FormatError
from promptfed.printable import printable

Transform = Callable[[Image.Image], Tensor]
MODES = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
"""Pillow's numbers of ways to resize."""
OPENAI_MEAN, OPENAI_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
DEFAULTS: Mapping[Kind, Mapping[str, Any]] = {
    "clip": {
        "size": {"shortest_edge": 224}, "do_center_crop": True, "crop_size": 224, "image_mean": OPENAI_MEAN,
        "image_std": OPENAI_STD,
    },
    "siglip": {
        "size": 224, "do_center_crop": False, "crop_size": None, "image_mean": (0.5,) * 3, "image_std": (0.5,) * 3,
    },
}  # fmt: skip
SHARED: Mapping[str, Any] = {
    "do_resize": True, "resample": 3, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True,
}  # fmt: skip
TYPES: Mapping[Kind, tuple[str, ...]] = {"clip": ("CLIP",), "siglip": ("Siglip",)}
ENDINGS = ("ImageProcessor", "ImageProcessorFast", "ImageProcessorPil", "FeatureExtractor")
ENOUGH_LIKE_ONE = 1e-6
LONGEST_SIDE = 10_000


@dataclass(frozen=True)
class Preparation:
    """How an image becomes a tensor.

    Attributes:
        settings: The fields of open_clip's ``PreprocessCfg``.
        transform: What does it where these fields cannot say it; None where they can.
    """

    settings: Mapping[str, Any]
    transform: Transform | None


def parse_preparation(content: Any, config: ClipConfig) -> Preparation:
    """Return what the JSON value ``content`` of a ``preprocessor_config.json`` says for the model ``config``.

    Raises:
        FormatError: It is another kind of preparation, or gives images of another size; one line.
    """
    if not isinstance(content, dict):
        raise FormatError("preprocessor_config.json is not a JSON object")
    _check_type(content, config.kind)
    table = {**SHARED, **DEFAULTS[config.kind], **{name: value for name, value in content.items() if value is not None}}
    if table["do_resize"] is not True:
        raise FormatError("preprocessor_config.json says do_resize false: images must be brought to one size")
    resample = table["resample"]
    if isinstance(resample, bool) or resample not in MODES:
        raise FormatError(f"preprocessor_config.json says resample '{printable(resample, 40)}'; 0 to 5 are read")
    edge, size = _size(table["size"], config.kind)
    crop = _square(table["crop_size"], "crop_size") if table["do_center_crop"] is True else None
    if crop is None and size is None:
        raise FormatError("preprocessor_config.json says a shortest edge and no crop: images must have one size")
    final = crop or size
    if final != (config.image_size, config.image_size):
        raise FormatError(
            f"preprocessor_config.json makes images of {final and final[0]} x {final and final[1]} pixels, but the "
            f"model takes {config.image_size} x {config.image_size}"
        )
    mean, std = _numbers(table)
    mode = MODES[resample]
    settings = {
        "size": (config.image_size, config.image_size),
        "mean": mean,
        "std": std,
        "interpolation": mode if mode in ("bicubic", "bilinear") else "bicubic",
        "resize_mode": "shortest" if size is None else "squash",
    }
    is_sayable = mode == settings["interpolation"] and (edge == config.image_size if size is None else size == final)
    return Preparation(settings, None if is_sayable else _transform(edge, size, crop, mode, mean, std))


def _check_type(content: Mapping[str, Any], kind: Kind) -> None:
    named = content.get("image_processor_type") or content.get("feature_extractor_type")
    allowed = [f"{start}{end}" for start in TYPES[kind] for end in ENDINGS]
    if named is not None and named not in allowed:
        raise FormatError(
            f"preprocessor_config.json is of the kind '{printable(named, 60)}'; only {allowed[0]} is read for {kind}"
        )


def _size(value: Any, kind: Kind) -> tuple[int, tuple[int, int] | None]:
    """Return the shortest edge, and height and width; one of the two says nothing (0, None)."""
    if isinstance(value, dict) and set(value) == {"shortest_edge"}:
        return _square(value["shortest_edge"], "size")[0], None
    if isinstance(value, int) and kind == "clip":
        return _square(value, "size")[0], None
    return 0, _square(value, "size")


def _square(value: Any, name: str) -> tuple[int, int]:
    """Return height and width from a number, a pair, or an object."""
    sides: Any = value
    if isinstance(value, dict) and set(value) == {"height", "width"}:
        sides = [value["height"], value["width"]]
    elif isinstance(value, int):
        sides = [value, value]
    if not isinstance(sides, list) or len(sides) != 2 or not all(map(_is_length, sides)):
        raise FormatError(
            f"preprocessor_config.json says {name} '{printable(value, 60)}'; a number, shortest_edge, or height and "
            "width are read"
        )
    return sides[0], sides[1]


def _numbers(table: Mapping[str, Any]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and deviation of pixels from 0 to 1, with the factor by which bytes are multiplied taken in."""
    mean, std = _three(table["image_mean"], "image_mean"), _three(table["image_std"], "image_std")
    if table["do_normalize"] is not True:
        mean, std = (0.0,) * 3, (1.0,) * 3
    factor = 1.0
    if table["do_rescale"] is True:
        (factor, *_) = _three(table["rescale_factor"], "rescale_factor")
    brightest = 255 * factor
    if min(std) <= 0 or brightest <= 0:
        raise FormatError("preprocessor_config.json says an image_std or a rescale_factor that is not above 0")
    if abs(brightest - 1) < ENOUGH_LIKE_ONE:
        return mean, std
    return tuple(value / brightest for value in mean), tuple(value / brightest for value in std)


def _three(value: Any, name: str) -> tuple[float, ...]:
    values = list(value) if isinstance(value, list | tuple) else [value] * 3
    if len(values) != 3 or not all(_is_number(number) for number in values):
        raise FormatError(
            f"preprocessor_config.json says {name} '{printable(value, 60)}'; one or three numbers are read"
        )
    return tuple(float(number) for number in values)


def _is_length(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < LONGEST_SIDE


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _transform(
    edge: int,
    size: tuple[int, int] | None,
    crop: tuple[int, int] | None,
    mode: str,
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> Transform:
    from torchvision import transforms

    steps = [
        transforms.Lambda(_as_rgb),
        transforms.Resize(edge if size is None else size, transforms.InterpolationMode(mode)),
        *([] if crop is None else [transforms.CenterCrop(crop)]),
        transforms.ToTensor(),
        transforms.Normalize(mean, std),
    ]
    transform: Transform = transforms.Compose(steps)
    return transform


def _as_rgb(image: Image.Image) -> Image.Image:
    return image.convert("RGB")
