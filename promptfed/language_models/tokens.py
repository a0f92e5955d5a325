"""A language model's tokenizer piece by piece: parts of texts, label words, shortened texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

WORD_MARKS = ("\u2581", "\u0120")
"""How tokens show that they begin a word: SentencePiece's mark, byte-level BPE's. WordPiece marks the others."""

MOST_TEXTS = 20_000
"""Texts whose ids are cached: a population meets the same examples repeatedly."""


class Tokens:
    """A fast tokenizer of transformers, used piece by piece.

    Markers of a model ("<eos>", "[MASK]") inside a text are read as the letters they are made of, not as markers.
    ``first`` and ``last``: ids that the tokenizer itself puts around a text ([CLS] and [SEP], or <bos> and nothing).
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        whole: list[int] = tokenizer("a")["input_ids"]
        bare: list[int] = tokenizer("a", add_special_tokens=False)["input_ids"]
        at = next((k for k in range(len(whole)) if whole[k : k + len(bare)] == bare), 0)
        self.first, self.last = whole[:at], whole[at + len(bare) :]
        vocabulary: dict[str, int] = tokenizer.get_vocab()
        minimum = len(vocabulary) / 20
        self._mark = next((mark for mark in WORD_MARKS if sum(t.startswith(mark) for t in vocabulary) > minimum), "")
        self._cache: dict[tuple[bool, str], list[int]] = {}

    def start(self, text: str) -> list[int]:
        """Return ids of a text at the beginning, without those around it."""
        return self._once(False, text)

    def following(self, text: str) -> list[int]:
        """Return ids of a text behind another: its first word is not taken for the start of a text."""
        return self._once(True, text)

    def answers(self, words: Sequence[str], front: str, *, at_mask: bool) -> list[list[int]]:
        """Return ids of each word where a model is to say it, with a space of its own where one belongs to it.

        Behind a text a word has a space, except after white space and where there is no text. At a mask it has the
        space that stands before the mask.

        Args:
            words: The words.
            front: What stands before them.
            at_mask: Whether they stand in the place of a mask.
        """
        is_apart = front.endswith(" ") if at_mask else bool(front[-1:].strip())
        return [self.following(" " + word if is_apart else word) for word in words]

    def shortened(self, text: str, by: int) -> str:
        """Return ``text`` without its last ``by`` tokens, or empty."""
        encoding = self._encode(text, return_offsets_mapping=True)
        length = len(encoding["input_ids"]) - by
        return text[: encoding["offset_mapping"][length - 1][1]] if length > 0 else ""

    def words(self, count: int) -> dict[str, int]:
        """Return common words that are one token, and their ids: the ``count`` lowest.

        Vocabularies are mostly ordered by frequency. Words have three lower-case letters or more.
        """
        vocabulary: dict[str, int] = self.tokenizer.get_vocab()
        ids: dict[str, int] = {}
        for token, number in sorted(vocabulary.items(), key=lambda pair: pair[1]):
            word = self._word(token)
            if word.islower() and len(word) > 2:
                ids.setdefault(word, number)
            if len(ids) == count:
                break
        return ids

    def word(self, number: int, *, starts: bool = False) -> str:
        """Return the word of token ``number`` in plain letters; empty if it is a part of a word, or none.

        ``starts``: it stands at the start of a text, where words lack the mark that tells them from parts.
        """
        token: str = self.tokenizer.convert_ids_to_tokens(number)
        return self._word(token) or (token if starts and token.isascii() and token.isalpha() else "")

    def _word(self, token: str) -> str:
        word = token.removeprefix(self._mark)
        return word if token.startswith(self._mark) and word.isascii() and word.isalpha() else ""

    def said(self, ids: Sequence[int]) -> str:
        """Return the text of ``ids``, markers left out."""
        text: str = self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text

    def _once(self, follows: bool, text: str) -> list[int]:
        key = (follows, text)
        if key not in self._cache:
            if len(self._cache) >= MOST_TEXTS:
                self._cache.clear()
            self._cache[key] = self._following(text) if follows else self._encode(text)["input_ids"]
        return self._cache[key]

    def _following(self, text: str) -> list[int]:
        # Some tokenizers put a space before every text. Behind an "a" that space is not where the text begins.
        if text[:1].isspace():
            letter: list[int] = self._encode("a")["input_ids"]
            with_letter: list[int] = self._encode("a" + text)["input_ids"]
            if with_letter[: len(letter)] == letter:
                return with_letter[len(letter) :]
        ids: list[int] = self._encode(text)["input_ids"]
        return ids

    def _encode(self, text: str, **more: Any) -> Any:
        return self.tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False, **more)
