"""Drawn shapes: one filled shape of one colour on a plain ground, with questions; a data set that needs no download."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from promptfed.examples.base import ImageItem
from promptfed.seeding import numpy_stream

DRAWN_BY = "shapes-1"
"""Name of the way to draw; part of every picture's identity, to be changed with it."""
SIDE = 64
COLORS = {
    "red": (214, 40, 40),
    "green": (40, 160, 60),
    "blue": (45, 75, 215),
    "yellow": (235, 205, 50),
    "black": (25, 25, 25),
}
SHAPES = ("circle", "rectangle", "triangle")


@dataclass(frozen=True)
class ShapeItem(ImageItem):
    """The picture with this ``number`` of a shape; place, size, turn and ground follow from all three."""

    shape: str
    color: str
    number: int

    @property
    def name(self) -> str:
        return f"{self.color} {self.shape} {self.number}"

    def content_id(self) -> str:
        """Return the SHA-256 of what is drawn and how; draws no pixels."""
        return hashlib.sha256(f"{DRAWN_BY}|{self.name}".encode()).hexdigest()

    def load(self) -> Image.Image:
        stream = np.random.default_rng(int(self.content_id()[:16], 16))
        picture = Image.new("RGB", (SIDE, SIDE), tuple(int(v) for v in stream.integers(215, 250, 3)))
        radius, turn = stream.uniform(13, 22), stream.uniform(0, 2 * math.pi)
        x, y = stream.uniform(radius, SIDE - radius, 2)
        pen = ImageDraw.Draw(picture)
        if self.shape == "circle":
            pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=COLORS[self.color])
            return picture
        corners = 3 if self.shape == "triangle" else 4
        tilt = stream.uniform(0.45, 0.75)  # of a rectangle's half diagonal
        angles = (
            [2 * math.pi * k / 3 for k in range(3)] if corners == 3 else [tilt, -tilt, math.pi + tilt, math.pi - tilt]
        )
        pen.polygon(
            [(x + radius * math.cos(turn + a), y + radius * math.sin(turn + a)) for a in angles],
            fill=COLORS[self.color],
        )
        return picture


def drawn(images: int, about: str, seed: int) -> Iterator[tuple[ShapeItem, list[tuple[str, str]]]]:
    """Yield ``images`` pictures of each colour, each with questions and their answers.

    Of yes and no there are as many of each: one question is about what is there, one about something else.

    Args:
        images: Pictures of each colour.
        about: What is asked for: shape, color or both.
        seed: Of the choice of what else is asked for.
    """
    stream = numpy_stream(seed, "shapes")
    for color in COLORS:
        for number in range(images):
            item = ShapeItem(SHAPES[number % len(SHAPES)], color, number)
            asked = []
            if about != "color":
                other = str(stream.choice([shape for shape in SHAPES if shape != item.shape]))
                asked += [(f"is there a {item.shape}?", "yes"), (f"is there a {other}?", "no")]
                asked.append(("what shape is it?", item.shape))
            if about != "shape":
                other = str(stream.choice([name for name in COLORS if name != color]))
                asked += [(f"is it {color}?", "yes"), (f"is it {other}?", "no"), ("what color is it?", color)]
            yield item, asked
