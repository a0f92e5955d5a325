"""Questions about images, each with the answers that it may have."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from PIL import Image

from promptfed.examples.base import ImageItem, Item


@dataclass(frozen=True)
class VisualQuestion(ImageItem):
    """A ``question`` about an ``image``.

    Attributes:
        image: What is looked at.
        question: What is asked, in words.
        kind: What sort of question it is, such as "yes or no".
        candidates: The answers that its client knows to questions of this kind, the most frequent first.
        form: How question and answer become one text, with {question} and {answer}.
    """

    image: ImageItem
    question: str
    kind: str = field(default="", compare=False)
    candidates: tuple[str, ...] = field(default=(), compare=False)
    form: str = field(default="{question} {answer}", compare=False)

    @property
    def name(self) -> str:
        return f"{self.image.name}, '{self.question}'"

    @property
    def key(self) -> str:
        return f"{self.image.key}\x00{self.question}"

    def content_id(self) -> str:
        return hashlib.sha256(f"question\x00{self.image.content_id()}\x00{self.question}".encode()).hexdigest()

    def image_id(self) -> str:
        return self.image.content_id()

    def load(self) -> Image.Image:
        return self.image.load()

    def is_large(self) -> bool:
        return self.image.is_large()

    def columns(self, places: Mapping[str, int]) -> list[int]:
        """Return the ``places`` of the candidates that have one, the most frequent first."""
        return [places[answer] for answer in self.candidates if answer in places]

    def text(self, answer: str) -> str:
        """Return the text that says that ``answer`` is the answer."""
        return self.form.replace("{answer}", answer).replace("{question}", self.question)


def questions_of(items: tuple[Item, ...]) -> tuple[VisualQuestion, ...]:
    """Return ``items`` if they are questions about images, else nothing."""
    return tuple(item for item in items if isinstance(item, VisualQuestion))
