"""Lists of words as text, one a line, and the check of lists that come from elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

LONGEST = 32
"""Most characters of a word; longer ones are dropped."""


def clean(word: str) -> str:
    """Strip ``word``; return nothing if it is too long, has space inside, or has no letter and no digit."""
    word = word.strip()
    is_word = word.isprintable() and len(word.split()) == 1 and len(word) <= LONGEST
    return word if is_word and any(letter.isalnum() for letter in word) else ""


def packed(words: Sequence[str]) -> str:
    """Join words to a text, one a line."""
    return "\n".join(words)


def unpacked(text: str, limit: int) -> list[str]:
    """Return the first ``limit`` words of ``text``; lines that are no words are left out."""
    return [word for word in map(clean, text.split("\n")) if word][:limit]
