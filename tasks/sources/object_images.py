"""Images that are objects of a user's program: PIL images, numpy arrays and torch tensors."""

from __future__ import annotations

import hashlib
import os
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from promptfed.errors import DataError, reason
from promptfed.examples import pixels
from promptfed.examples.base import FileItem, ImageItem

CHANNELS = (1, 3, 4)
"""Grey, RGB and RGBA."""


class ObjectImage(ImageItem):
    """An image in memory.

    Args:
        value: A PIL image, or an array as ``image_of`` takes it.
        place: What messages call it: ``list[3]``.
    """

    def __init__(self, value: Any, place: str) -> None:
        self._value, self._place = value, place

    @property
    def name(self) -> str:
        return self._place

    @property
    def value(self) -> Any:
        """Return the object itself."""
        return self._value

    def load(self) -> Image.Image:
        return self._converted()[0]

    def examine(self) -> str:
        return self._look[1]

    def content_id(self) -> str:
        """Return the SHA-256 of size and RGB pixels."""
        return self._look[0]

    @cached_property
    def _look(self) -> tuple[str, str]:
        """Return the content id, and a note on the conversion of the values."""
        image, note = self._converted()
        return hashlib.sha256(f"{image.size}|".encode() + image.tobytes()).hexdigest(), note

    def _converted(self) -> tuple[Image.Image, str]:
        return pixels.convert(image_of(self.value, self._place), self._place)


class DatasetImage(ObjectImage):
    """The image of one example of a torch data set, read from there whenever it is needed."""

    def __init__(self, data: Any, row: int, place: str) -> None:
        super().__init__(None, place)
        self.dataset, self._row = data, row

    @property
    def value(self) -> Any:
        return example_of(self.dataset, self._row, self._place)[0]


def example_of(data: Any, row: int, place: str) -> tuple[Any, Any]:
    """Return the pair (example, label) in ``row`` of ``data``.

    Raises:
        DataError: It is no pair; the message names ``place``.
    """
    try:
        pair = data[row]
    except Exception as error:  # a data set's own code may raise anything
        raise DataError(f"cannot read {place}: {type(error).__name__}: {reason(error)}") from error
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise DataError(f"{place} is {kind_of(pair)}: give pairs (image or path or text, label)")
    return pair[0], pair[1]


def kind_of(value: Any) -> str:
    """Describe an object for a message: its type, and of a tuple or list its length."""
    name = type(value).__name__
    article = "an" if name[:1].lower() in "aeiou" else "a"
    return f"{article} {name} of {len(value)}" if isinstance(value, tuple | list) else f"{article} {name}"


def is_image(value: Any) -> bool:
    """Return whether ``value`` is of a kind that ``image_of`` takes."""
    return isinstance(value, Image.Image | np.ndarray | torch.Tensor)


def image_item(value: Any, place: str) -> ImageItem:
    """Return ``value`` as an example: the path of a file, or an image in memory.

    Args:
        value: A path, or an image as ``image_of`` takes it.
        place: What messages call an image in memory.

    Raises:
        DataError: It is of another kind.
    """
    if isinstance(value, str | os.PathLike) and isinstance(os.fspath(value), str):
        return FileItem(Path(value))
    if not is_image(value):
        raise DataError(f"{place} is {kind_of(value)}: give a PIL image, an array, or the path of a file")
    return ObjectImage(value, place)


def image_of(value: Any, place: str) -> Image.Image:
    """Return ``value`` as a PIL image.

    Args:
        value: A PIL image; or a numpy array or torch tensor ``(height, width)``, ``(height, width, channels)`` or
            ``(channels, height, width)`` with 1, 3 or 4 channels, of uint8, uint16 (grey), or floats within 0..1.
        place: What messages call it.

    Raises:
        DataError: It is of another kind, shape or range.
    """
    if isinstance(value, Image.Image):
        return value
    if isinstance(value, torch.Tensor):
        try:
            value = value.detach().to("cpu")
            array, first = (value.float() if value.is_floating_point() else value).numpy(), True
        except (NotImplementedError, RuntimeError, TypeError) as error:  # on "meta", sparse, quantized
            raise DataError(f"{place} is a tensor that holds no plain numbers: {reason(error)}") from error
    elif isinstance(value, np.ndarray):
        array, first = value, False
    else:
        raise DataError(f"{place} is {kind_of(value)}: give a PIL image, an array, or the path of a file")
    summary = f"{place} is an array {tuple(array.shape)} of {array.dtype}"
    array = _channels_last(array, first)
    if array is None or 0 in array.shape:
        raise DataError(f"{summary}: give (height, width), or with 1, 3 or 4 channels first or last")
    mode = "RGB" if array.ndim == 3 else "I;16" if array.dtype.kind == "u" and array.itemsize == 2 else "L"
    pixels.check_size((array.shape[1], array.shape[0]), mode, place)
    if mode == "I;16":
        return Image.fromarray(array.astype(np.uint16))  # in this machine's order of bytes
    if array.dtype.kind == "f":
        if not np.isfinite(array).all() or array.min() < 0 or array.max() > 1:
            raise DataError(
                f"{summary} with values outside 0..1: give uint8, or floats from 0 (black) to 1 (white), not normalised"
            )
        array = np.floor(array.astype(np.float64) * 255 + 0.5).astype(np.uint8)
    if array.dtype != np.uint8:
        raise DataError(f"{summary}: give uint8, floats within 0..1, or uint16 of one channel")
    return Image.fromarray(np.ascontiguousarray(array))


def _channels_last(array: np.ndarray, first: bool) -> np.ndarray | None:
    """Return ``(height, width)`` or ``(height, width, 3 or 4)``; ``first``: an ambiguous array has channels first."""
    if array.ndim == 3:
        ends = [array.shape[0] in CHANNELS, array.shape[-1] in CHANNELS]
        if not any(ends):
            return None
        if ends[0] and (first or not ends[1]):
            array = array.transpose(1, 2, 0)
        return array[..., 0] if array.shape[-1] == 1 else array
    return array if array.ndim == 2 else None
