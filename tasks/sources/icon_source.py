"""``icons``: the bundled pictures, as a source. Listing it draws nothing; an icon is drawn when it is loaded."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from pathlib import Path

from promptfed.errors import ConfigError, DataError, unknown_name
from promptfed.tasks.sources.base import Sample, Source
from promptfed.tasks.sources.icons import FAMILIES, HELD_OUT_FAMILIES, Glyph, IconItem, glyphs, shared_concepts

TRAIN_RENDERINGS, TEST_RENDERINGS = 60, 12
"""Renderings of each class in each family, dealt evenly to the family's glyphs of that class."""

DEFAULT_CLASSES = 48
"""Classes of plain ``icons``: so many of the 115 concepts that the held-out families share, drawn by hash."""

FIRST_TEST_VARIANT = 1000
"""Test variants are numbered from here, far above every training variant, so the two never meet."""


def source(names: str = "", *, data_root: Path | None = None, strict: bool = False) -> Source:
    """Concepts that all families in ``names`` (comma-separated) can draw; by default 48 of the held-out ones of `tiny`.

    ``icons:phosphor,remix`` has all 115 of these.
    A concept is a class, a family a domain. What is tested: the *rendering* (pose, colours, backdrop, noise) of
    every test image is new, but its glyph is not, because a concept has only 2 to 15 glyphs in a family and these are
    mostly drawing weights of one picture. So figures on base classes speak of new views of known drawings, like
    other photographs of a known object; classes kept as new are unseen drawings. Families other than the default were
    seen by `tiny` in its training. ``data_root`` and ``strict`` are not used.
    Raises ConfigError for an unknown family, DataError if the fonts are missing or the families share no concept.
    """
    families = tuple(part.strip() for part in names.split(",")) if names else HELD_OUT_FAMILIES
    for family in families:
        if family not in FAMILIES:
            raise unknown_name("icon family", family, FAMILIES)
    if len(set(families)) < len(families):
        raise ConfigError(f"icon families '{names}' name one family twice: name each once")
    concepts = shared_concepts(families)
    if not concepts:
        raise DataError(f"icon families {', '.join(families)} have no concept in common: name fewer families")
    if not names:
        by_hash = sorted(concepts, key=lambda c: hashlib.sha256(f"default|{c}".encode()).hexdigest())
        concepts = sorted(by_hash[:DEFAULT_CLASSES])
    drawings: dict[tuple[str, str], list[Glyph]] = defaultdict(list)
    for glyph in glyphs():
        drawings[glyph.concept, glyph.family].append(glyph)
    samples: list[Sample] = []
    for label, concept in enumerate(concepts):
        for family in families:
            own = drawings[concept, family]
            for split, count, first in (("train", TRAIN_RENDERINGS, 0), ("test", TEST_RENDERINGS, FIRST_TEST_VARIANT)):
                for i in range(count):
                    item = IconItem(own[i % len(own)], first + i // len(own))
                    samples.append(Sample(item, label, domain=family, split=split))
    return Source(f"icons:{names}" if names else "icons", tuple(concepts), tuple(samples))
