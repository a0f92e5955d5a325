"""Examples: one text, question or image, with its name and the identity of its content."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from PIL import Image

from promptfed.examples import pixels
from promptfed.examples.exact_match import is_right
from promptfed.examples.token_overlap import has_phrase
from promptfed.printable import printable


class Item(ABC):
    """One example: a name for messages and an identity for caches."""

    @property
    @abstractmethod
    def name(self) -> str:
        """What a message calls this example: a path, or a name within its source."""

    @abstractmethod
    def content_id(self) -> str:
        """Hex SHA-256 that changes whenever the content does; the key of all that is cached about this example."""

    def image_id(self) -> str:
        """Return the key of what an image tower makes of it; by default that of the content."""
        return self.content_id()

    @property
    def grades(self) -> tuple[float, ...]:
        """How well each class fits, in the order of the split's class list; NaN where it is not known.

        Empty (the default): the label says all, and fits alone. All examples of a split have grades, or none has.
        """
        return ()


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

    def is_answered(self, reply: str) -> bool:
        """Return whether ``reply`` is right: by its final answer, as GSM8K is scored."""
        return is_right(reply, self.answer)


@dataclass(frozen=True)
class PhraseQuestion(QuestionItem):
    """A question whose answer is a phrase, which a right reply contains."""

    def is_answered(self, reply: str) -> bool:
        return has_phrase(reply, self.answer)


@dataclass(frozen=True)
class AnswerItem(QuestionItem):
    """A question whose answer a language model is trained to write.

    Attributes:
        turns: The conversation before the answer, as (role, text), for a chat template; empty: ``text`` is all.
        has_final: Whether an answer is right if its final answer is (after ####), and not if all of it is the same.
        is_written: Whether the model writes an answer in tests. Where choices are made, the likelihood of the right
            answer is enough, which takes one reading.
    """

    turns: tuple[tuple[str, str], ...] = ()
    has_final: bool = field(default=False, compare=False)
    is_written: bool = field(default=True, compare=False)


class ImageItem(Item):
    """One image: what every example has, and its pixels on demand."""

    is_thread_safe: ClassVar[bool] = False
    """Whether ``load`` may run in other threads than the one that made the example, and beside that of others."""

    @abstractmethod
    def load(self) -> Image.Image:
        """Return the image in mode RGB.

        Raises:
            DataError: It cannot be decoded; the message names it.
        """

    def examine(self) -> str:
        """Return a note on decoding for the owner; empty for the usual. Raises as ``load``."""
        self.load()
        return ""

    def is_large(self) -> bool:
        """Whether no other should be decoded at the same time. Raises as ``load``."""
        return False

    @property
    def key(self) -> str:
        """What tells it from the others of its source: its name as the machine writes it."""
        return self.name


@dataclass(frozen=True)
class FileItem(ImageItem):
    """An image file."""

    is_thread_safe: ClassVar[bool] = True
    path: Path

    @property
    def name(self) -> str:
        return printable(self.path)

    @property
    def key(self) -> str:
        return str(self.path)

    def content_id(self) -> str:
        """SHA-256 of the file's bytes, and of the decoder's rules where these matter (``pixels.content_id``)."""
        return pixels.content_id(self.path, str(self.path))

    def load(self) -> Image.Image:
        return pixels.decode(self.path, str(self.path))[0]

    def examine(self) -> str:
        return pixels.examine(self.path, str(self.path))

    def is_large(self) -> bool:
        return pixels.is_large(self.path, str(self.path))


@dataclass(frozen=True)
class GradedText(TextItem):
    """A text that fits several classes, each more or less: a request and the engines that answer it.

    ``passages``: documents of the client that answer it, best first, where the client knows them.
    """

    class_grades: tuple[float, ...] = field(default=(), compare=False)
    passages: tuple[str, ...] = field(default=(), compare=False, repr=False)

    @property
    def grades(self) -> tuple[float, ...]:
        return self.class_grades


@dataclass(frozen=True)
class Sample:
    """A labelled example of a source: ``label`` indexes the source's classes, ``split`` is train, val, test or ''."""

    item: Item
    label: int
    domain: str = ""
    split: str = ""
