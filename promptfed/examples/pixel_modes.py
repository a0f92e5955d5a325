"""Pixels of every mode as 8-bit RGB: docs/data.md has the rule of each."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from PIL import Image

ALPHA_MODES = frozenset(["LA", "La", "PA", "RGBA", "RGBa"])
NUMBER_MODES = frozenset(["I", "F", "I;16", "I;16L", "I;16B", "I;16N"])

DEPTHS = (8, 12, 16)
"""Bits of whole numbers: values are scaled from 0..2**bits - 1 with the fewest of these that hold them all."""

BAND = 500_000
"""Pixels that are converted at a time where a conversion needs room of its own."""


def as_rgb(image: Image.Image) -> tuple[Image.Image, str]:
    """Return a decoded image in mode RGB, and a note on its conversion; docs/data.md has the rule of each mode."""
    if image.mode in NUMBER_MODES:
        return _from_numbers(image)
    if is_transparent(image):
        return _on_white(image), ""
    if image.mode == "LAB":
        return _from_lab(image), ""
    if image.mode == "RGB":
        return image, ""
    return image.convert("RGB"), ""


def is_transparent(image: Image.Image) -> bool:
    """Whether some of its pixels may be transparent."""
    palette = image.palette if image.mode == "P" else None
    return image.mode in ALPHA_MODES or "transparency" in image.info or (palette is not None and "A" in palette.mode)


def _bands(size: tuple[int, int]) -> Iterator[tuple[int, int]]:
    """First row and last row (exclusive) of one strip after the other."""
    step = max(1, BAND // size[0])
    for top in range(0, size[1], step):
        yield top, min(size[1], top + step)


def _on_white(image: Image.Image) -> Image.Image:
    """Composed on white, strip by strip. A 16-bit image with one transparent value goes by ``_from_numbers``."""
    canvas = Image.new("RGB", image.size)
    for top, bottom in _bands(image.size):
        strip = image.crop((0, top, image.width, bottom))
        ground = Image.new("RGBA", strip.size, (255, 255, 255, 255))
        strip = strip.convert("LA") if strip.mode == "La" else strip  # Pillow makes no RGBA of premultiplied grey
        ground.alpha_composite(strip.convert("RGBA"))
        canvas.paste(ground.convert("RGB"), (0, top))
    return canvas


def _from_lab(image: Image.Image) -> Image.Image:
    from PIL import ImageCms

    transform = ImageCms.buildTransform(ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), "LAB", "RGB")
    return ImageCms.applyTransform(image, transform)  # type: ignore[return-value]


def _from_numbers(image: Image.Image) -> tuple[Image.Image, str]:
    """16-bit, 32-bit and float values scaled to 0..255, half up; the value that stands for transparency is white."""
    low, high, note = _value_range(image)
    tags = getattr(image, "tag_v2", {})
    is_inverted = image.format == "TIFF" and tags.get(262) == 0  # the smallest value is white
    clear = image.info.get("transparency")
    canvas = Image.new("RGB", image.size)
    for top, bottom in _bands(image.size):
        strip = _values(image, top, bottom).astype(np.float64)
        with np.errstate(invalid="ignore"):
            share = np.nan_to_num((strip - low) / (high - low) if high > low else strip * 0, nan=0, posinf=1, neginf=0)
        share = np.clip(1 - share if is_inverted else share, 0, 1)
        if isinstance(clear, int):
            share[strip == clear] = 1
        grey = Image.fromarray(np.floor(share * 255 + 0.5).astype(np.uint8))
        canvas.paste(grey.convert("RGB"), (0, top))
    return canvas, note


def _values(image: Image.Image, top: int, bottom: int) -> np.ndarray:
    """Return the numbers in some rows; Pillow reads unsigned 32-bit ones of a TIFF as signed."""
    values = np.asarray(image.crop((0, top, image.width, bottom)))
    tags = getattr(image, "tag_v2", {})
    if image.mode == "I" and image.format == "TIFF" and tags.get(339, (1,))[0] == 1 and tags.get(258, (0,))[0] == 32:
        return values.view(np.uint32)
    return values


def _value_range(image: Image.Image) -> tuple[float, float, str]:
    """Return the values that become black and white, and a note where these are not the full range of the mode."""
    low, high, odd = _finite_extremes(image)
    width = 16 if "16" in image.mode else 32
    if image.mode == "F":
        if low >= 0 and high <= 1:
            return 0, 1, "values that are no finite numbers are black or white" if odd else ""
        return low, high, "floats are not within 0..1: the smallest and the greatest become black and white"
    if low >= 0 and (bits := next((bits for bits in DEPTHS if high < 2**bits), None)):
        note = f"{width}-bit values fit {bits} bits: 0 becomes black, {2**bits - 1} white" if bits < 16 else ""
        return 0, 2**bits - 1, note
    return (
        low,
        high,
        f"{width}-bit values are not within 0..65535: the smallest and the greatest become black and white",
    )


def _finite_extremes(image: Image.Image) -> tuple[float, float, bool]:
    """Smallest and greatest finite value, and whether some are not finite."""
    low, high, odd = np.inf, -np.inf, False
    for top, bottom in _bands(image.size):
        strip = _values(image, top, bottom)
        finite = np.isfinite(strip)
        odd = odd or not finite.all()
        if finite.any():
            low, high = min(low, float(strip[finite].min())), max(high, float(strip[finite].max()))
    return (0.0, 0.0, True) if low > high else (low, high, bool(odd))
