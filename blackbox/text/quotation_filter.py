"""What a written prompt gives away word for word: texts are cleaned of quotations before they leave a client.

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
    """Finds what a prompt has from ``private`` texts: ``words`` words in a row (case and punctuation do not count), a
    whole text of at least ``SHORTEST`` words, a mail address, or a number of four digits or more.
    """

    def __init__(self, private: Iterable[str], words: int) -> None:
        self.words = words
        self._known: set[tuple[str, ...]] = set()
        self._giveaways: set[str] = set()
        for text in private:
            spoken = _words(text)
            length = min(words, len(spoken))
            if length >= min(SHORTEST, words):
                self._known.update(tuple(spoken[i : i + length]) for i in range(len(spoken) - length + 1))
            self._giveaways.update(_squeezed(found) for found in _GIVEAWAY.findall(text))
        self._lengths = sorted({len(found) for found in self._known})

    def removed(self, text: str) -> str:
        """``text`` without the sentences that take part in a quotation, also in one that only their removal made."""
        kept = sentences(text)
        while True:
            touched = self._touched(kept)
            if not touched:
                return _joined(kept)
            kept = [sentence for i, sentence in enumerate(kept) if i not in touched]

    def _touched(self, parts: Sequence[str]) -> set[int]:
        """Positions of sentences that hold a word of a quotation; one may begin in one sentence and end in another."""
        spoken = [(word, i) for i, sentence in enumerate(parts) for word in _words(sentence)]
        found: set[int] = set()
        for length in self._lengths:
            for start in range(len(spoken) - length + 1):
                window = spoken[start : start + length]
                if tuple(word for word, _ in window) in self._known:
                    found.update(i for _, i in window)
        for i, sentence in enumerate(parts):
            if any(self._gives_away(_squeezed(given)) for given in _GIVEAWAY.findall(sentence)):
                found.add(i)
        return found

    def _gives_away(self, given: str) -> bool:
        """Whether ``given`` is a private address or number, or a part of one, or has one as a part."""
        return any(given in known or known in given for known in self._giveaways)


def sentences(text: str) -> list[str]:
    """``text`` in sentences and lines, with the marks that end them, none of them empty."""
    return [part.strip() for part in _BREAK.split(text) if part.strip()]


def shortened(text: str, most: int) -> str:
    """The leading sentences of ``text`` that fit into ``most`` characters, or if the first does not, its leading
    words."""
    kept: list[str] = []
    for part in sentences(text):
        if len(_joined([*kept, part])) > most:
            break
        kept.append(part)
    if kept or not text.strip():
        return _joined(kept)
    cut = " ".join(text.split())[: most + 1]
    return (cut[:most] if " " not in cut else cut.rpartition(" ")[0])[:most].strip()


def _joined(parts: Sequence[str]) -> str:
    return " ".join(parts)


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())


def _squeezed(found: str) -> str:
    """A number's digits, or an address, as they are compared."""
    return found.casefold() if "@" in found else re.sub(r"[ .-]", "", found)
