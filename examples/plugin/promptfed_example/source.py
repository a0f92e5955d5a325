"""A data source: squares in one colour each, drawn when they are needed."""

import hashlib
from dataclasses import dataclass

from PIL import Image

from promptfed.examples.base import ImageItem
from promptfed.tasks.sources import SOURCES
from promptfed.tasks.sources.base import Sample, Source

COLOURS = {"red": (220, 30, 30), "green": (30, 160, 60), "blue": (40, 60, 210), "yellow": (230, 210, 40)}


@dataclass(frozen=True)
class Square(ImageItem):
    """One picture; ``content_id`` names its content, because features are kept by it."""

    colour: str
    shade: int

    @property
    def name(self):
        return f"{self.colour} {self.shade}"

    def content_id(self):
        return hashlib.sha256(self.name.encode()).hexdigest()

    def load(self):
        return Image.new("RGB", (64, 64), tuple(max(0, part - 2 * self.shade) for part in COLOURS[self.colour]))


@SOURCES.register("squares")
def squares(rest, *, data_root=None, strict=False):
    """Squares in four colours: squares:12 has twelve shades of each."""
    items = [(Square(colour, shade), label) for label, colour in enumerate(COLOURS) for shade in range(int(rest or 12))]
    return Source(f"squares:{rest}", tuple(COLOURS), tuple(Sample(item, label) for item, label in items))
