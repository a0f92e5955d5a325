"""Double exposures of two bundled icons: pictures with two labels each, that need no download."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from dataclasses import dataclass, field
from typing import cast

from PIL import Image

from promptfed.examples.base import ImageItem, Sample
from promptfed.seeding import numpy_stream
from promptfed.tasks.sources import icon_source
from promptfed.tasks.sources.base import Source

CLASSES = 12
"""Classes of plain ``icons``, evenly taken from its 48."""
TRAIN, TEST = 32, 12
"""Pictures whose first icon is of a class."""


@dataclass(frozen=True)
class IconPair(ImageItem):
    """Two icons, each half transparent, one over the other; ``grades`` has 1 for the classes of both."""

    icons: tuple[ImageItem, ImageItem]
    grades: tuple[float, ...] = field(default=(), compare=False, repr=False)

    @property
    def name(self) -> str:
        return " + ".join(icon.name for icon in self.icons)

    def content_id(self) -> str:
        """Return the SHA-256 of both icons' identities; draws no pixels."""
        return hashlib.sha256("|".join(["pair-1", *(icon.content_id() for icon in self.icons)]).encode()).hexdigest()

    def load(self) -> Image.Image:
        first, second = (icon.load() for icon in self.icons)
        return Image.blend(first, second, 0.5)


def source(families: str = "") -> Source:
    """Return pictures of two icons of different classes, always the same ones.

    Args:
        families: Icon families with commas, as ``icons:`` has them.

    Raises:
        ConfigError: A family is unknown.
        DataError: The fonts are missing or the families share no concept.
    """
    icons = icon_source.source(families)
    step = 1 if families else len(icons.classes) // CLASSES
    labels = range(0, len(icons.classes), step)
    number = {label: place for place, label in enumerate(labels)}
    of_class: dict[tuple[str, int], list[Sample]] = defaultdict(list)
    for sample in icons.samples:
        if sample.label in number:
            of_class[sample.split, number[sample.label]].append(sample)
    samples = []
    for split, count in (("train", TRAIN), ("test", TEST)):
        draws = numpy_stream(0, "icon collages", split, families)
        for first in range(len(labels)):
            for _ in range(count):
                second = int((first + 1 + draws.integers(len(labels) - 1)) % len(labels))
                mine, other = of_class[split, first], of_class[split, second]
                top, bottom = mine[int(draws.integers(len(mine)))], other[int(draws.integers(len(other)))]
                grades = tuple(float(label in (first, second)) for label in range(len(labels)))
                pair = IconPair((cast(ImageItem, top.item), cast(ImageItem, bottom.item)), grades)
                samples.append(Sample(pair, first, top.domain, split))
    classes = tuple(icons.classes[label] for label in labels)
    return Source(f"icons:{families}" if families else "icons", classes, tuple(samples))
