"""Texts as rows of token ids: the template filled in, the tokenizer's own markers around, cut to what a model reads."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from promptfed.errors import ConfigError, DataError
from promptfed.examples.base import Item, TextItem
from promptfed.language_models.tokens import Tokens
from promptfed.printable import printable
from promptfed.prompt_template import WORDS_HINT, PromptTemplate

MASK = "\x01"
"""Stands for the mask in a rendered template."""
MOST_ROWS = 20_000
"""Rows that are kept: a client reads the same texts in every round."""


@dataclass(frozen=True)
class TextRow:
    """What a model reads of one text.

    Attributes:
        ids: Token ids, the tokenizer's own markers included.
        at: The position whose hidden state answers: the last one, or that of the mask.
        cut: How many tokens of the text were left out, because the model reads no more.
    """

    ids: tuple[int, ...]
    at: int
    cut: int = 0


class RowWriter:
    """Turns texts into rows for one model.

    Args:
        tokenizer: A fast tokenizer of transformers.
        form: The template around a text, and the label words.
        family: "causal", "masked", "encoder" or "encoder-decoder". An encoder reads the text alone, without a template.
        longest: Tokens that the model reads at most.
        name: What messages call the model.
    """

    def __init__(self, tokenizer: Any, form: PromptTemplate, family: str, longest: int, name: str) -> None:
        self.tokens, self.form, self.family, self.longest, self.name = Tokens(tokenizer), form, family, longest, name
        self._mask = [tokenizer.mask_token_id] if family == "masked" else []
        # A causal model goes on behind the text: an end marker there would end it.
        self._last = [] if family == "causal" else self.tokens.last
        start = getattr(tokenizer, "bos_token_id", None)
        self._empty = [tokenizer.eos_token_id if start is None else start]
        self._cache: dict[tuple[str, str, int], TextRow] = {}

    def row(self, item: Item, prompt: str = "", reserve: int = 0) -> TextRow:
        """Return the row of a text.

        Args:
            item: The text.
            prompt: A hand-written prompt, where the template has its place for one.
            reserve: Tokens that must remain free, for an insert or an answer.

        Raises:
            DataError: The item is no text.
            ConfigError: Prompt and template leave no room for a text.
        """
        text = text_of(item, self.name)
        key = (text, prompt, reserve)
        if key not in self._cache:
            if len(self._cache) >= MOST_ROWS:
                self._cache.clear()
            self._cache[key] = self._fit(text, prompt, self.longest - reserve)
        return self._cache[key]

    def _fit(self, text: str, prompt: str, room: int) -> TextRow:
        ids = self._frame(text, prompt)
        length = len(ids)
        while len(ids) > room:
            if not text:
                raise ConfigError(
                    f"a prompt and template of {length} tokens leave no room for a text: '{self.name}' reads "
                    f"{max(0, room)}; shorten the prompt or the template"
                )
            text = self.tokens.shortened(text, len(ids) - room)
            ids = self._frame(text, prompt)
        at = ids.index(self._mask[0]) if self._mask else len(ids) - 1
        return TextRow(tuple(ids), at, length - len(ids))

    def _frame(self, text: str, prompt: str) -> list[int]:
        ids: list[int] = []
        pieces = self._pieces(text, prompt)
        for number, piece in enumerate(pieces):
            if piece == MASK:
                ids += self._mask
                continue
            # The space before a mask belongs to the word that stands there.
            words = piece if number == len(pieces) - 1 else piece.rstrip(" ")
            ids += self.tokens.following(words) if number else self.tokens.start(words)
        return [*self.tokens.first, *ids, *self._last] or [*self._empty]

    def _pieces(self, text: str, prompt: str) -> list[str]:
        """Split the filled-in template at MASK."""
        text = text.replace(MASK, "")
        if self.family == "encoder":
            return [piece for piece in (f"{prompt} {text}".strip(),) if piece]
        whole = self.form.render(prompt, text, MASK)
        if self.family == "masked" and MASK not in whole:
            whole = f"{whole} {MASK}"
        if self.family != "masked":
            whole = whole.replace(MASK, "")
        return [piece for piece in re.split(f"({MASK})", whole) if piece]

    def label_ids(self, classes: tuple[str, ...]) -> list[int]:
        """Return the first token of each class's label word.

        Raises:
            ConfigError: A word is empty, or two begin with the same token.
        """
        # A decoder's answer begins a text of its own.
        front = "" if self.family == "encoder-decoder" else "".join(self._pieces("text", "")).split(MASK)[0]
        words = [self.form.word(name) for name in classes]
        labels = [ids[:1] for ids in self.tokens.answers(words, front, at_mask=self.family == "masked")]
        holders: dict[int, str] = {}
        for name, word, ids in zip(classes, words, labels, strict=True):
            if not ids:
                raise ConfigError(f"class '{printable(name)}' has an empty label word: {WORDS_HINT}")
            if (other := holders.setdefault(ids[0], word)) != word:
                raise ConfigError(
                    f"label words '{printable(other)}' and '{printable(word)}' begin with the same token, so "
                    f"'{self.name}' cannot tell them apart: give others with {WORDS_HINT}"
                )
        return [ids[0] for ids in labels]


def text_of(item: Item, name: str) -> str:
    """Return the text of an example. Raises DataError, which names the model, for an image."""
    if not isinstance(item, TextItem):
        raise DataError(f"{item.name} is not a text, which is what model '{name}' reads")
    return item.text
