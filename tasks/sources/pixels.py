"""The one decoder of images: whatever a file holds becomes 8-bit RGB, upright, on white, within a bound of memory.

docs/data.md states the rules for users. Whoever reads an image (a folder, a table, a data set, ``predict``, a site)
comes through here.
"""

from __future__ import annotations

import functools
import hashlib
import io
import os
import re
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps

from promptfed.errors import ConfigError, DataError
from promptfed.printable import printable

RULES = "promptfed pixels 2"
"""Part of the content id of every image that is not decoded by ``convert("RGB")`` alone. It changes with the rules, so
that no feature of an image that was decoded in another way is used."""

FORMATS = ("JPEG", "MPO", "PNG", "GIF", "WEBP", "TIFF", "BMP", "DIB", "PPM", "AVIF", "JPEG2000")
"""Formats that are decoded here. Others of Pillow's stay shut: its EPS reader runs a program."""

PLAIN_MODES = frozenset(["1", "L", "P", "RGB", "CMYK", "YCbCr", "HSV"])
ALPHA_MODES = frozenset(["LA", "La", "PA", "RGBA", "RGBa"])
NUMBER_MODES = frozenset(["I", "F", "I;16", "I;16L", "I;16B", "I;16N"])

DEFAULT_LIMIT_MB = 140
"""Memory that decoding may take."""
SMALL_SHARE = 1 / 16
"""Images that take less of it may be decoded beside others."""
FILE_LIMIT = 1_000_000_000
"""Bytes of an image file."""
MOST_OBLONG = 200
"""A long side may be so many times the short one: a model makes the short side a few hundred pixels long."""
BYTES_PER_PIXEL = {"1": 5, "L": 5, "P": 5, "RGB": 4, "I;16": 6, "I;16L": 6, "I;16B": 6, "I;16N": 6}
"""What Pillow and the conversion to RGB hold at once; 8 for other modes."""
FORMAT_BYTES = {"WEBP": 12, "AVIF": 12, "JPEG2000": 16}
"""Formats whose decoders keep copies of their own: at least so many bytes a pixel."""

DEPTHS = (8, 12, 16)
"""Bits of whole numbers: values are scaled from 0..2**bits - 1 with the fewest of these that hold them all."""

BAND = 500_000
"""Pixels that are converted at a time where a conversion needs room of its own."""

warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # the bound here is a stricter one
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")  # of damaged tags: what counts is the pixels


def decode(source: Path | bytes, name: str) -> tuple[Image.Image, str]:
    """The image in mode RGB, and what was done to its values that its owner should know; empty for the usual.

    ``source`` is a file or the bytes of one, ``name`` what messages call it. Raises DataError naming it if it is no
    image, damaged, too large to decode within the bound, or no regular file.
    """
    with _opened(source, name) as image:
        _bound(image, name)
        return _decoded(image)


def examine(source: Path | bytes, name: str) -> str:
    """The note of ``decode``, and its errors; no pixel of it is in memory any more."""
    with _opened(source, name) as image:
        _bound(image, name)
        pixels, note = _decoded(image)
        pixels.close()
        image.close()
        return note


def is_large(source: Path | bytes, name: str) -> bool:
    """Whether it should be decoded alone, one after the other: several at a time would take too much memory. Raises
    DataError as ``decode``, of what its header shows."""
    with _opened(source, name) as image:
        return _bound(image, name) > _limit() * SMALL_SHARE


def _decoded(image: Image.Image) -> tuple[Image.Image, str]:
    image.load()
    if image.format != "TIFF":  # Pillow turns these itself
        _turn(image)
    return as_rgb(image)


def content_id(source: Path | bytes, name: str) -> str:
    """Hex SHA-256 of the encoded image; where it is not decoded by ``convert("RGB")`` alone, of that and the rules.

    Raises DataError if it cannot be read.
    """
    if isinstance(source, bytes):
        return _identify(source, name)
    status = _regular(source, name)
    return _file_id(source, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)


def as_rgb(image: Image.Image) -> tuple[Image.Image, str]:
    """A decoded image in mode RGB, and what was done to its values: see docs/data.md for the rule of each mode."""
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


# ------------------------------------------------------------------------------------------------------ reading


@contextmanager
def _opened(source: Path | bytes, name: str) -> Iterator[Image.Image]:
    """The image, of which only the header is read. Whatever the decoder says of bad bytes becomes a DataError."""
    if isinstance(source, Path):
        _regular(source, name)
    shown = printable(name)
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=_formats()) as image:
            yield image
    except (DataError, ConfigError):
        raise
    except Image.UnidentifiedImageError as error:
        raise DataError(f"cannot decode image {shown}: {_what_it_is(source)}") from error
    except FileNotFoundError as error:
        raise DataError(f"cannot read image {shown}: {error.strerror}") from error
    except MemoryError as error:
        raise DataError(f"cannot decode image {shown}: there is not enough memory") from error
    except Exception as error:  # decoders raise anything at all for bytes that someone has thought up
        why = printable(" ".join(str(error).split()), 200) or type(error).__name__
        raise DataError(f"cannot decode image {shown}: {why}") from error


@functools.cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _regular(path: Path, name: str) -> os.stat_result:
    """Raises DataError for what is no regular file (a pipe would never end), and for one that is too large."""
    try:
        status = path.stat()
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise DataError(f"cannot read image {printable(name)}: {why}") from error
    if not stat.S_ISREG(status.st_mode):
        kinds = {stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket", stat.S_IFDIR: "a folder"}
        kind = kinds.get(stat.S_IFMT(status.st_mode), "a device")
        raise DataError(f"cannot read image {printable(name)}: it is {kind}, not a file")
    if status.st_size > FILE_LIMIT:
        raise DataError(
            f"cannot read image {printable(name)}: it has {status.st_size / 1e9:.1f} GB, "
            f"the most is {FILE_LIMIT / 1e9:.0f} GB"
        )
    return status


MAGIC = (
    (rb"^$", "it is empty"),
    (rb"^.{128}DICM", "it is a DICOM file: export it as PNG or TIFF"),
    (rb"^.{4}ftyp(heic|heix|hevc|heim|heis|mif1|msf1)", "it is a HEIC file: export it as JPEG"),
    (rb"^version https://git-lfs", "it is a pointer of Git LFS: fetch the file itself with git lfs pull"),
    (rb"(?i)^\s*<(!doctype html|html)", "it is a web page"),
    (rb"(?i)^\s*(<\?xml[^>]*>\s*)?<svg", "it is an SVG drawing: export it as PNG"),
    (rb"^%!PS|^%PDF", "it is a PostScript or PDF file: export it as PNG"),
)
"""Beginnings of files that are often taken for images."""


def _what_it_is(source: Path | bytes) -> str:
    try:
        start = source[:512] if isinstance(source, bytes) else _first_bytes(source)
    except OSError as error:
        return str(error.strerror or error)
    known = (what for pattern, what in MAGIC if re.search(pattern, start, re.DOTALL))
    return next(known, "it is no image of a known format (JPEG, PNG, GIF, WebP, TIFF, BMP, PPM, AVIF, JPEG 2000)")


def _first_bytes(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(512)


# ----------------------------------------------------------------------------------------------------- identity


@functools.lru_cache(maxsize=200_000)
def _file_id(path: Path, *stamp: int) -> str:
    """The content id of a file, read once while its size, times and inode (``stamp``) stay the same."""
    return _identify(path, str(path))


def _identify(source: Path | bytes, name: str) -> str:
    try:
        digest, has_late_exif = _digest(source)
    except OSError as error:
        raise DataError(f"cannot read image {printable(name)}: {error.strerror or error}") from error
    try:
        with _opened(source, name) as image:
            plain = _is_plain(image) and not (image.format == "PNG" and has_late_exif)
    except DataError:
        plain = True  # no image: its id serves for messages alone
    return digest if plain else hashlib.sha256(f"{RULES}|{digest}".encode()).hexdigest()


def _digest(source: Path | bytes) -> tuple[str, bool]:
    """SHA-256, and whether there is the name of a PNG chunk with EXIF data somewhere."""
    digest, found, end = hashlib.sha256(), False, b""
    with io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as file:
        while part := file.read(1 << 20):
            digest.update(part)
            found = found or b"eXIf" in end + part
            end = part[-3:]
    return digest.hexdigest(), found


def _is_plain(image: Image.Image) -> bool:
    """Whether ``convert("RGB")`` alone decodes it, as every image was decoded before there were rules."""
    if image.mode not in PLAIN_MODES or is_transparent(image) or _is_turned(image):
        return False
    return _cost(image) <= _limit()


def _is_turned(image: Image.Image) -> bool:
    """Whether its header asks for it to be turned or mirrored; no pixel is decoded to find out."""
    if image.format == "TIFF":
        return False
    if not {"exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp"} & image.info.keys():
        return False
    return _orientation(image) != 1


def _orientation(image: Image.Image) -> int:
    try:
        found = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # damaged EXIF data says nothing; the pixels may be whole
        return 1
    return found if found in range(1, 9) else 1


# ------------------------------------------------------------------------------------------------------- bounds


def _limit() -> int:
    """Bytes. Raises ConfigError if PROMPTFED_IMAGE_MB is no number of megabytes."""
    size = os.environ.get("PROMPTFED_IMAGE_MB", str(DEFAULT_LIMIT_MB))
    if not re.fullmatch(r"[1-9][0-9]{0,6}", size):
        raise ConfigError(f"PROMPTFED_IMAGE_MB is '{printable(size, 40)}': give megabytes such as {DEFAULT_LIMIT_MB}")
    return int(size) * 1_000_000


def _bound(image: Image.Image, name: str) -> int:
    """The bytes that decoding will take; a JPEG that is too large is set to be decoded at 1/2, 1/4 or 1/8 of its size.

    Raises DataError naming an image that stays too large, or is so oblong that its preprocessing would be.
    """
    width, height = image.size
    limit = _limit()
    if max(width, height) > MOST_OBLONG * min(width, height):
        raise DataError(
            f"image {printable(name)} has {width:,} x {height:,} pixels: a side more than {MOST_OBLONG} times the "
            "other leaves nothing to see; cut it"
        )
    scale = 1
    while _cost(image, (width, height)) > limit and image.format in ("JPEG", "MPO") and scale < 8:
        scale *= 2
        image.draft(None, (max(1, width // scale), max(1, height // scale)))  # type: ignore[arg-type]
    cost = _cost(image, (width, height))
    if cost > limit:
        raise DataError(
            f"image {printable(name)} has {width:,} x {height:,} pixels, which take {cost / 1e6:,.0f} MB to decode; "
            f"the most is {limit / 1e6:,.0f} MB: make it smaller, or set PROMPTFED_IMAGE_MB={cost // 1_000_000 + 1}"
        )
    return cost


def _cost(image: Image.Image, full_size: tuple[int, int] | None = None) -> int:
    """Bytes that decoding takes; ``full_size`` of a JPEG that is set to be decoded smaller."""
    width, height = image.size
    each = max(BYTES_PER_PIXEL.get(image.mode, 8), FORMAT_BYTES.get(image.format or "", 0))
    if _is_turned(image):
        each += BYTES_PER_PIXEL["RGB"]
    return width * height * each + _coefficients(image, full_size or image.size)


def _coefficients(image: Image.Image, size: tuple[int, int]) -> int:
    """Bytes that a progressive JPEG keeps until its last scan, whatever size it is decoded at."""
    layers = getattr(image, "layer", None)
    if not image.info.get("progressive") or not layers:
        return 0
    areas = [across * down for _, across, down, *_ in layers]
    return int(2 * size[0] * size[1] * sum(areas) / max(1, *areas))


# --------------------------------------------------------------------------------------------------- conversion


def _turn(image: Image.Image) -> None:
    """Turn and mirror a loaded image as its EXIF data says."""
    if _orientation(image) != 1:
        ImageOps.exif_transpose(image, in_place=True)


def _bands(size: tuple[int, int]) -> Iterator[tuple[int, int]]:
    """First row and last row (exclusive) of one strip after the other."""
    step = max(1, BAND // size[0])
    for top in range(0, size[1], step):
        yield top, min(size[1], top + step)


def _on_white(image: Image.Image) -> Image.Image:
    """Composed on white, strip by strip. A 16-bit image with one transparent value goes by ``_from_numbers``."""
    whole = Image.new("RGB", image.size)
    for top, bottom in _bands(image.size):
        strip = image.crop((0, top, image.width, bottom))
        ground = Image.new("RGBA", strip.size, (255, 255, 255, 255))
        strip = strip.convert("LA") if strip.mode == "La" else strip  # Pillow makes no RGBA of premultiplied grey
        ground.alpha_composite(strip.convert("RGBA"))
        whole.paste(ground.convert("RGB"), (0, top))
    return whole


def _from_lab(image: Image.Image) -> Image.Image:
    from PIL import ImageCms

    transform = ImageCms.buildTransform(ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), "LAB", "RGB")
    return ImageCms.applyTransform(image, transform)  # type: ignore[return-value]


def _from_numbers(image: Image.Image) -> tuple[Image.Image, str]:
    """16-bit, 32-bit and float values scaled to 0..255, half up; the value that stands for transparency is white."""
    low, high, note = _value_range(image)
    tags = getattr(image, "tag_v2", {})
    turned = image.format == "TIFF" and tags.get(262) == 0  # the smallest value is white
    clear = image.info.get("transparency")
    whole = Image.new("RGB", image.size)
    for top, bottom in _bands(image.size):
        strip = _values(image, top, bottom).astype(np.float64)
        with np.errstate(invalid="ignore"):
            share = np.nan_to_num((strip - low) / (high - low) if high > low else strip * 0, nan=0, posinf=1, neginf=0)
        share = np.clip(1 - share if turned else share, 0, 1)
        if isinstance(clear, int):
            share[strip == clear] = 1
        grey = Image.fromarray(np.floor(share * 255 + 0.5).astype(np.uint8))
        whole.paste(grey.convert("RGB"), (0, top))
    return whole, note


def _values(image: Image.Image, top: int, bottom: int) -> np.ndarray:
    """The numbers in some rows; 32-bit ones that a TIFF says have no sign, which Pillow reads as if they had."""
    values = np.asarray(image.crop((0, top, image.width, bottom)))
    tags = getattr(image, "tag_v2", {})
    if image.mode == "I" and image.format == "TIFF" and tags.get(339, (1,))[0] == 1 and tags.get(258, (0,))[0] == 32:
        return values.view(np.uint32)
    return values


def _value_range(image: Image.Image) -> tuple[float, float, str]:
    """The values that become black and white, and a note where these are not the full range of the mode."""
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
