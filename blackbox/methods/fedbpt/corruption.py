"""FedBPT's corrupted copy of a client's texts, to tell learning from favouring a label."""

from __future__ import annotations

import re
from functools import cache

import numpy as np

from promptfed.errors import ConfigError
from promptfed.examples.base import TextItem
from promptfed.readers.text import read_text
from promptfed.tasks.sources.bundled_texts import FOLDER, NAMES
from promptfed.types import Split


@cache
def public_words() -> tuple[str, ...]:
    """Return the words of the texts that come with promptfed, sorted: replacements without client data."""
    text = " ".join(read_text(FOLDER / f"{name}.tsv") for name in NAMES)
    return tuple(sorted(set(re.findall(r"[a-z]{2,}", text.lower()))))


def perturbed(split: Split, rate: float, stream: np.random.Generator) -> Split:
    """Replace each word of the texts of ``split`` with probability ``rate``.

    Labels stay, and so does the template's part around a text (mask, separators, prompt).

    Raises:
        ConfigError: Examples are not texts.
    """
    words, items = public_words(), []
    for item in split.items:
        if not isinstance(item, TextItem):
            raise ConfigError(f"only texts can be perturbed, and {item.name} is none: use --set method.perturb=0")
        parts = item.text.split()
        replaced = stream.random(len(parts)) < rate
        replacements = stream.integers(len(words), size=len(parts))
        text = " ".join(words[o] if r else p for p, r, o in zip(parts, replaced, replacements, strict=True))
        items.append(TextItem(text, f"{item.name} (perturbed)"))
    return Split(tuple(items), split.labels)
