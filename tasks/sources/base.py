"""What a data source hands out: labelled images that can be identified without being decoded."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from promptfed.errors import DataError


class ImageItem(ABC):
    """One image: a name for messages, an identity for caches, and its pixels on demand."""

    @property
    @abstractmethod
    def name(self) -> str:
        """What a message calls this image: a path, or a name within its source."""

    @abstractmethod
    def content_id(self) -> str:
        """Hex SHA-256 that changes whenever the pixels do; the key of every cached feature of this image."""

    @abstractmethod
    def load(self) -> Image.Image:
        """The image in mode RGB. Raises DataError naming the image if it cannot be decoded."""


@dataclass(frozen=True)
class FileItem(ImageItem):
    """An image file."""

    path: Path

    @property
    def name(self) -> str:
        return str(self.path)

    def content_id(self) -> str:
        """SHA-256 of the file's bytes. Raises DataError if the file cannot be read."""
        try:
            return hashlib.sha256(self.path.read_bytes()).hexdigest()
        except OSError as error:
            raise DataError(f"cannot read image {self.path}: {error.strerror or error}") from error

    def load(self) -> Image.Image:
        try:
            with Image.open(self.path) as image:
                return image.convert("RGB")
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise DataError(f"cannot decode image {self.path}: {error}") from error


@dataclass(frozen=True)
class Sample:
    """A labelled image of a source: ``label`` indexes the source's classes, ``split`` is train, val, test or ''."""

    item: ImageItem
    label: int
    domain: str = ""
    split: str = ""


@dataclass(frozen=True)
class Source:
    """A whole data set: class names as a person would write them, and its samples in a fixed order.

    ``base_classes``: where the source itself fixes the base/new halves (CoOp's split files), the number of
    leading classes that are base; None lets the task decide. ``skipped`` lists images that could not be read.
    """

    name: str
    classes: tuple[str, ...]
    samples: tuple[Sample, ...]
    base_classes: int | None = None
    skipped: tuple[str, ...] = field(default=())

    @property
    def domains(self) -> tuple[str, ...]:
        return tuple(sorted({sample.domain for sample in self.samples}))
