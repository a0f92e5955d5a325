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

from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from promptfed.errors import ConfigError, DataError, reason
from promptfed.examples.pixel_modes import as_rgb as as_rgb
from promptfed.examples.pixel_modes import is_transparent
from promptfed.printable import printable

RULES = "promptfed pixels 2"
"""Part of the content id of every image that is not decoded by ``convert("RGB")`` alone. It changes with the rules, so
that no feature of an image that was decoded in another way is used."""

FORMATS = ("JPEG", "MPO", "PNG", "GIF", "WEBP", "TIFF", "BMP", "DIB", "PPM", "AVIF", "JPEG2000")
"""Formats that are decoded here. Others of Pillow's stay shut: its EPS reader runs a program."""

PLAIN_MODES = frozenset(["1", "L", "P", "RGB", "CMYK", "YCbCr", "HSV"])

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

warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # the bound here is a stricter one
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")  # of damaged tags: what counts is the pixels


def decode(source: Path | bytes, name: str) -> tuple[Image.Image, str]:
    """Return the image in mode RGB, and a note on its conversion for its owner; empty for the usual.

    Args:
        source: A file or the bytes of one.
        name: Its name in messages.

    Raises:
        DataError: It is no image, damaged, too large to decode within the bound, or no regular file.
    """
    with _opened(source, name) as image:
        _bound(image, name)
        return _decoded(image)


def convert(image: Image.Image, name: str) -> tuple[Image.Image, str]:
    """As ``decode``, of an open image of the caller's, which stays as it is."""
    check_size(image.size, image.mode, name)  # before anything is copied
    try:
        copy = image.copy()
        _bound(copy, name)
        copy.format = image.format
        return _decoded(copy)
    except (DataError, ConfigError):
        raise
    except Exception as error:  # a file behind it that is damaged or gone
        raise DataError(f"cannot decode image {printable(name)}: {reason(error)}") from error


def examine(source: Path | bytes, name: str) -> str:
    """Return the note of ``decode``, or raise its errors, without keeping any pixel in memory."""
    with _opened(source, name) as image:
        _bound(image, name)
        pixels, note = _decoded(image)
        pixels.close()
        image.close()
        return note


def is_large(source: Path | bytes, name: str) -> bool:
    """Return whether an image is decoded alone: several at a time would take too much memory.

    Raises:
        DataError: As ``decode``, as far as the header shows.
    """
    with _opened(source, name) as image:
        return _bound(image, name) > _limit() * SMALL_SHARE


def _decoded(image: Image.Image) -> tuple[Image.Image, str]:
    image.load()
    if image.format != "TIFF":  # Pillow turns these itself
        _turn(image)
    return as_rgb(image)


def size_of(source: Path | bytes, name: str) -> tuple[int, int]:
    """Return width and height as the header says, without decoding a pixel. Raises DataError if it is no image."""
    with _opened(source, name) as image:
        return image.size


def content_id(source: Path | bytes, name: str) -> str:
    """Hex SHA-256 of the encoded image; where it is not decoded by ``convert("RGB")`` alone, of that and the rules.

    Raises DataError if it cannot be read.
    """
    if isinstance(source, bytes):
        return _identify(source, name)
    status = _regular(source, name)
    return _file_id(source, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)


# ------------------------------------------------------------------------------------------------------ reading


@contextmanager
def _opened(source: Path | bytes, name: str) -> Iterator[Image.Image]:
    """Open the image and read only its header. Errors of the decoder become DataErrors."""
    if isinstance(source, Path):
        _regular(source, name)
    text = printable(name)
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=_formats()) as image:
            yield image
    except (DataError, ConfigError):
        raise
    except UnidentifiedImageError as error:
        raise DataError(f"cannot decode image {text}: {_what_it_is(source)}") from error
    except FileNotFoundError as error:
        raise DataError(f"cannot read image {text}: {error.strerror}") from error
    except MemoryError as error:
        raise DataError(f"cannot decode image {text}: there is not enough memory") from error
    except Exception as error:  # decoders raise anything at all for bytes that someone has thought up
        why = printable(" ".join(str(error).split()), 200) or type(error).__name__
        raise DataError(f"cannot decode image {text}: {why}") from error


@functools.cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _regular(path: Path, name: str) -> os.stat_result:
    """Return the status of a regular file. Raises DataError for others (a pipe never ends), and for one too large."""
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
    matches = (description for pattern, description in MAGIC if re.search(pattern, start, re.DOTALL))
    return next(matches, "it is no image of a known format (JPEG, PNG, GIF, WebP, TIFF, BMP, PPM, AVIF, JPEG 2000)")


def _first_bytes(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(512)


# ----------------------------------------------------------------------------------------------------- identity


@functools.lru_cache(maxsize=200_000)
def _file_id(path: Path, *stamp: int) -> str:
    """Return the content id of a file, read once while its size, times and inode (``stamp``) stay the same."""
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
    digest, is_past_header, end = hashlib.sha256(), False, b""
    with io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as file:
        while part := file.read(1 << 20):
            digest.update(part)
            is_past_header = is_past_header or b"eXIf" in end + part
            end = part[-3:]
    return digest.hexdigest(), is_past_header


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
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # damaged EXIF data says nothing; the pixels may be whole
        return 1
    return orientation if orientation in range(1, 9) else 1


# ------------------------------------------------------------------------------------------------------- bounds


def _limit() -> int:
    """Bytes. Raises ConfigError if PROMPTFED_IMAGE_MB is no number of megabytes."""
    size = os.environ.get("PROMPTFED_IMAGE_MB", str(DEFAULT_LIMIT_MB))
    if not re.fullmatch(r"[1-9][0-9]{0,6}", size):
        raise ConfigError(f"PROMPTFED_IMAGE_MB is '{printable(size, 40)}': give megabytes such as {DEFAULT_LIMIT_MB}")
    return int(size) * 1_000_000


def check_size(size: tuple[int, int], mode: str, name: str) -> None:
    """Raise DataError for pixels in memory, ``(width, height)``, that take too much to convert, or are none."""
    if 0 in size:
        raise DataError(f"image {printable(name)} has {size[0]:,} x {size[1]:,} pixels: it is empty")
    _check_cost(size, size[0] * size[1] * BYTES_PER_PIXEL.get(mode, 8), name)


def _check_cost(size: tuple[int, int], cost: int, name: str) -> None:
    """Raise DataError if decoding takes more than the bound."""
    if cost > _limit():
        raise DataError(
            f"image {printable(name)} has {size[0]:,} x {size[1]:,} pixels, which take {cost / 1e6:,.0f} MB to decode; "
            f"the most is {_limit() / 1e6:,.0f} MB: make it smaller, or set PROMPTFED_IMAGE_MB={cost // 1_000_000 + 1}"
        )


def _bound(image: Image.Image, name: str) -> int:
    """Return the bytes that decoding takes; a JPEG that is too large is set to decode at 1/2, 1/4 or 1/8 of its size.

    Raises:
        DataError: The image stays too large, or is so oblong that its preprocessing would be.
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
        image.draft(None, (max(1, width // scale), max(1, height // scale)))
    cost = _cost(image, (width, height))
    _check_cost((width, height), cost, name)
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


def _turn(image: Image.Image) -> None:
    """Turn and mirror a loaded image as its EXIF data says."""
    if _orientation(image) != 1:
        ImageOps.exif_transpose(image, in_place=True)
