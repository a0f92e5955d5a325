"""Filter of quotations: texts are cleaned of a client's own words before they leave it.

This stops copies, not meaning: a prompt that says the same in other words passes. It is no privacy guarantee.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

_WORD = re.compile(r"\w+")
_BREAK = re.compile(r"(?<=[.!?])\s+|\n+")
_GIVEAWAY = re.compile(r"[\w.+-]+@[\w.-]+\w|[0-9](?:[0-9 .-]*[0-9]){3,}")
"""Mail addresses, and runs of four digits or more (cards, telephones, accounts), however they are grouped."""
SHORTEST = 3
"""Words of a private text that is shorter than the limit and counts as quoted only as a whole."""


class Quotations:
    """Finder of quotations from ``private`` texts.

    A quotation is ``words`` words in a row (case and punctuation do not count), a whole text of at least ``SHORTEST``
    words, a mail address, or a number of four digits or more.
    """

    def __init__(self, private: Iterable[str], words: int) -> None:
        self.words = words
        self._runs: set[tuple[str, ...]] = set()
        self._giveaways: set[str] = set()
        for text in private:
            words_of_text = _words(text)
            length = min(words, len(words_of_text))
            if length >= min(SHORTEST, words):
                self._runs.update(tuple(words_of_text[i : i + length]) for i in range(len(words_of_text) - length + 1))
            self._giveaways.update(_squeezed(run) for run in _GIVEAWAY.findall(text))
        self._lengths = sorted({len(run) for run in self._runs})

    def removed(self, text: str) -> str:
        """Remove sentences that take part in a quotation from ``text``, again until none is left."""
        parts = sentences(text)
        while True:
            touched = self._touched(parts)
            if not touched:
                return _joined(parts)
            parts = [sentence for i, sentence in enumerate(parts) if i not in touched]

    def _touched(self, parts: Sequence[str]) -> set[int]:
        """Return positions of sentences that hold a word of a quotation, which may span sentences."""
        words = [(word, i) for i, sentence in enumerate(parts) for word in _words(sentence)]
        positions: set[int] = set()
        for length in self._lengths:
            for start in range(len(words) - length + 1):
                window = words[start : start + length]
                if tuple(word for word, _ in window) in self._runs:
                    positions.update(i for _, i in window)
        for i, sentence in enumerate(parts):
            if any(self._gives_away(_squeezed(match)) for match in _GIVEAWAY.findall(sentence)):
                positions.add(i)
        return positions

    def _gives_away(self, text: str) -> bool:
        """Return whether ``text`` is a private address or number, or a part of one, or has one as a part."""
        return any(text in secret or secret in text for secret in self._giveaways)


def sentences(text: str) -> list[str]:
    """Split ``text`` into sentences and lines, with the marks that end them, none of them empty."""
    return [part.strip() for part in _BREAK.split(text) if part.strip()]


def shortened(text: str, limit: int) -> str:
    """Return the leading sentences of ``text`` that fit into ``limit`` characters.

    If the first does not fit, its leading words are returned.
    """
    parts: list[str] = []
    for part in sentences(text):
        if len(_joined([*parts, part])) > limit:
            break
        parts.append(part)
    if parts or not text.strip():
        return _joined(parts)
    cut = " ".join(text.split())[: limit + 1]
    return (cut[:limit] if " " not in cut else cut.rpartition(" ")[0])[:limit].strip()


def _joined(parts: Sequence[str]) -> str:
    return " ".join(parts)


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())


def _squeezed(match: str) -> str:
    """Return a number's digits, or an address, in the form for comparison."""
    return match.casefold() if "@" in match else re.sub(r"[ .-]", "", match)
