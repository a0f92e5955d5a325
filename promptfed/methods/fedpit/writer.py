"""New texts from a client's few ones: each is a template whose words give way to public ones."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cached_property

import torch

from promptfed.prompts.word_pool import WordPool

MARKS = ".,!?;:"
_PART = re.compile(rf"\w+(?:['\u2019]\w+)*|[{MARKS}]")
_SPACE = re.compile(rf" ([{MARKS}])")
SHORT_WORDS = frozenset(
    "a i am an as at be by do go he if in is it me my no of oh ok on or so to up us we".split()  # noqa: SIM905
)
"""English words of one or two letters that may stay; no other short word does, since it may be a name."""


class ExampleWriter:
    """Writer of drafts.

    A word is public if it is a whole word of the vocabulary, of three letters or more, or one of SHORT_WORDS. A public
    word of the template stays if chance lets it; else a near word of the vocabulary takes its place, or a public word
    of another example of the class. Every other word goes: numbers, initials, names that the vocabulary lacks. A name
    that is a word of the vocabulary may stay, and so may such words of an address. SHORT_WORDS and marks always stay.

    Args:
        pool: The public words.
        spare: Label -> the places of words that may stand where no other fits.
        degree: The share of the public words that changes.
    """

    def __init__(self, pool: WordPool, spare: Mapping[int, Sequence[int]], degree: float) -> None:
        self.pool, self.spare, self.degree = pool, spare, degree

    @cached_property
    def _public(self) -> set[str]:
        return set(self.pool.words)

    def draft(self, texts: Sequence[str], place: int, label: int, stream: torch.Generator) -> str:
        """Return a text like ``texts[place]``, in lower case.

        Args:
            texts: A client's examples of one class.
            place: Which of them is the template.
            label: The class.
            stream: What chance comes from.
        """
        parts = _PART.findall(texts[place].lower())
        draws = torch.rand(len(parts), 2, generator=stream).tolist()
        words = []
        for part, (change, crossing) in zip(parts, draws, strict=True):
            stays = self.is_public(part) and change >= self.degree
            words.append(part if stays else self._other(part, texts, label, crossing < 0.5, stream))
        return _SPACE.sub(r"\1", " ".join(words))

    def is_public(self, part: str) -> bool:
        """Return whether a part of the template may stay: a mark, or a public word."""
        return part in self._public or self._is_fixed(part)

    def _is_fixed(self, part: str) -> bool:
        """Return whether a part always stays: a mark, or one of SHORT_WORDS."""
        return part in SHORT_WORDS or part in MARKS

    def _other(self, part: str, texts: Sequence[str], label: int, crosses: bool, stream: torch.Generator) -> str:
        """Return what takes the place of ``part``; of what always stays, itself."""
        if self._is_fixed(part):
            return part
        near = self.pool.near_word(part)
        if near and not crosses:
            return self.pool.draw(near, 1, stream)[0]
        other = texts[int(torch.randint(len(texts), (1,), generator=stream))].lower()
        words = [str(word) for word in _PART.findall(other) if word in self._public]
        if words:
            return words[int(torch.randint(len(words), (1,), generator=stream))]
        return self.pool.draw(self.spare[label], 1, stream)[0]
