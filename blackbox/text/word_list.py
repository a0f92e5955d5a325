"""Words that travel as text, one a line, and what is done to those that come from elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

LONGEST = 32
"""Characters of a word: what is longer is no word, and is not passed on."""


def clean(word: str) -> str:
    """``word`` without the space around it; nothing if it is too long, has space inside, or says nothing."""
    word = word.strip()
    fits = word.isprintable() and len(word.split()) == 1 and len(word) <= LONGEST
    return word if fits and any(letter.isalnum() for letter in word) else ""


def packed(words: Sequence[str]) -> str:
    return "\n".join(words)


def unpacked(text: str, most: int) -> list[str]:
    """The words of ``text``, the first ``most``; those that are none are left out."""
    return [word for word in map(clean, text.split("\n")) if word][:most]
