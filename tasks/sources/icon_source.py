"""``icons``: the bundled pictures, as a source. A list of them draws nothing; an icon is drawn when it is loaded."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from functools import lru_cache
from pathlib import Path

from promptfed.errors import ConfigError, DataError, unknown_name
from promptfed.examples.base import Sample
from promptfed.tasks.sources.base import Source
from promptfed.tasks.sources.icons import FAMILIES, HELD_OUT_FAMILIES, Glyph, IconItem, glyphs, shared_concepts

TRAIN_RENDERINGS, TEST_RENDERINGS = 60, 12
"""Renderings of each class in each family, dealt evenly to the family's glyphs of that class."""

DEFAULT_CLASSES = 48
"""Classes of plain ``icons``: so many of the 115 concepts that the held-out families share, drawn by hash."""

STYLES = ("phosphor/thin", "phosphor/fill", "remix/line", "remix/fill")
"""Domains of ``icons:styles``: ways of drawing, all of them of families that `tiny` never saw."""

STYLE_CLASSES = 24
"""Classes of ``icons:styles``, drawn by the same hash from the 112 concepts that the four share."""

FIRST_TEST_VARIANT = 1000
"""Test variants are numbered from here, far above every training variant, so the two never meet."""


def source(names: str = "", *, data_root: Path | None = None, strict: bool = False) -> Source:
    """Return rendered icons of the concepts that all of some icon families can draw.

    ``names`` are the families, with commas.

    By default these are 48 of the held-out ones of `tiny`; ``icons:phosphor,remix`` has all 115 of these. A style of a
    family is named by a slash, ``icons:phosphor/thin,...``; ``icons:styles`` is 24 concepts in four styles of the
    held-out families. A concept is a class, a family (or style) a domain. The test is of the *rendering* (pose,
    colours, backdrop, noise): it is new in every test image. The glyph is not, because a concept has only 2 to 15
    glyphs in a family and these are mostly drawing weights of one picture. So figures on base classes are about new
    views of known drawings, like other photographs of a known object; new classes are unseen drawings. `tiny` has seen
    all families but the default ones in its training. ``data_root`` and ``strict`` are not used.

    Raises:
        ConfigError: A family is unknown.
        DataError: The fonts are missing or the families share no concept.
    """
    return _source(names)


@lru_cache(maxsize=8)
def _source(names: str) -> Source:
    """Return the listing, which serves all tasks of a process: nothing in it changes."""
    presets = {"": (HELD_OUT_FAMILIES, DEFAULT_CLASSES), "styles": (STYLES, STYLE_CLASSES)}
    families, limit = presets.get(names) or (tuple(part.strip() for part in names.split(",")), None)
    for family in families:
        if family.partition("/")[0] not in FAMILIES:
            raise unknown_name("icon family", family, [*FAMILIES, "styles"])
    if len(set(families)) < len(families):
        raise ConfigError(f"icon families '{names}' name one family twice: name each once")
    concepts = shared_concepts(families)
    if not concepts:
        raise DataError(
            f"icon families {', '.join(families)} have no concept in common: name fewer, or other styles of them"
        )
    if limit is not None:
        by_hash = sorted(concepts, key=lambda c: hashlib.sha256(f"default|{c}".encode()).hexdigest())
        concepts = sorted(by_hash[:limit])
    drawings: dict[tuple[str, str], list[Glyph]] = defaultdict(list)
    for glyph in glyphs():
        for family in families:
            if glyph.is_of(family):
                drawings[glyph.concept, family].append(glyph)
    samples: list[Sample] = []
    for label, concept in enumerate(concepts):
        for family in families:
            glyphs_of_family = drawings[concept, family]
            for split, count, first in (("train", TRAIN_RENDERINGS, 0), ("test", TEST_RENDERINGS, FIRST_TEST_VARIANT)):
                for i in range(count):
                    item = IconItem(glyphs_of_family[i % len(glyphs_of_family)], first + i // len(glyphs_of_family))
                    samples.append(Sample(item, label, domain=family.replace("/", " "), split=split))
    return Source(f"icons:{names}" if names else "icons", tuple(concepts), tuple(samples))
