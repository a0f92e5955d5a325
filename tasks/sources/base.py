"""What a data source hands out: labelled images, or texts, that can be identified without being decoded."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from promptfed.errors import DataError


class Item(ABC):
    """One example: a name for messages and an identity for caches."""

    @property
    @abstractmethod
    def name(self) -> str:
        """What a message calls this example: a path, or a name within its source."""

    @abstractmethod
    def content_id(self) -> str:
        """Hex SHA-256 that changes whenever the content does; the key of all that is cached about this example."""


@dataclass(frozen=True)
class TextItem(Item):
    """A text; ``origin`` says where it stands (``train.tsv:12``)."""

    text: str
    origin: str = field(default="", compare=False)

    @property
    def name(self) -> str:
        return self.origin or f"'{self.text[:40]}'"

    def content_id(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()


ANSWER_CLASSES = ("wrong", "right")
"""The classes of questions with free answers: every example's is "right", so accuracy is the share answered right."""


@dataclass(frozen=True)
class QuestionItem(TextItem):
    """A question with one right ``answer``, to be answered in free text."""

    answer: str = ""

    def content_id(self) -> str:
        return hashlib.sha256(f"{self.text}\x00{self.answer}".encode()).hexdigest()


class ImageItem(Item):
    """One image: what every example has, and its pixels on demand."""

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
    """A labelled example of a source: ``label`` indexes the source's classes, ``split`` is train, val, test or ''."""

    item: Item
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
