"""Tokenised sentences for a text tower: plain ones as token ids, prompted ones with slots for a learned context."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from promptfed.backbones.base import ClassTokens, Position, TokenEmbeddings
from promptfed.errors import BackboneError
from promptfed.printable import LONGEST, printable

if TYPE_CHECKING:
    from open_clip.tokenizer import SimpleTokenizer
    from tokenizers import Tokenizer


SLOT = -1
"""Id that stands for a context token while the place of the end is looked for."""


@dataclass(frozen=True)
class Frame:
    """Token ids around the words of every sentence.

    Attributes:
        before: Ids in front of the words; none in towers without a start token.
        after: Ids behind them.
        pad: The id of padding.
        last: The id at the last position of a sentence that is padded to its full length, or None.
    """

    before: tuple[int, ...]
    after: tuple[int, ...]
    pad: int = 0
    last: int | None = None

    @property
    def size(self) -> int:
        """Return the number of tokens that are no words."""
        return len(self.before) + len(self.after) + (self.last is not None)


@dataclass(frozen=True)
class Sentences:
    """The tokenizer and embedding table of one text tower.

    Attributes:
        backbone: A name for errors.
        encode: Ids of a text that begins a sentence, without its frame.
        table: The embedding of each id.
        frame: The ids around a sentence's words.
        limit: The most tokens that a sentence may have, frame included.
        words: The word of each token id that stands for text.
        follow: ``follow(text, gap)``: ids of a text behind other words, parted from them by ``gap``. None: they are
            those of a text that begins.
        read: Position at which a sentence is read, of its ids with ``SLOT`` for each context token. None: its last
            token.
        is_cut: Whether sentences are cut behind the position that is read. Otherwise all are padded to ``limit``.
    """

    backbone: str
    encode: Callable[[str], list[int]]
    table: nn.Embedding
    frame: Frame
    limit: int
    words: Callable[[], Mapping[int, str]]
    follow: Callable[[str, str], list[int]] | None = None
    read: Callable[[Sequence[int]], int] | None = None
    is_cut: bool = True

    def ids(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return framed ids ``(texts, length)`` with padding, and the position at which each is read ``(texts,)``.

        Raises:
            BackboneError: A text is longer than ``limit``.
        """
        rows = [self.encode(text) for text in texts]
        for text, row in zip(texts, rows, strict=True):
            self._check_length(f"text '{text}'", row, "shorten it")
        return self._framed(rows)

    def class_tokens(self, classes: Sequence[str], n_ctx: int, position: Position) -> ClassTokens:
        """Tokenise class names; see ``Backbone.class_tokens``."""
        if not classes:
            raise BackboneError("cannot tokenise an empty list of classes: give at least one class name")
        prefix_length = {"end": n_ctx, "middle": n_ctx // 2, "front": 0}[position]
        begin = self._behind if prefix_length else self.encode
        rows, slots, names = [], [], [class_name.replace("_", " ") for class_name in classes]
        for name in names:
            # Context that follows the name parts it from its full stop; else they are one text, as in CoOp.
            word, stop = (begin(f"{name}."), []) if position == "end" else (begin(name), self._behind(".", ""))
            rows.append([SLOT] * prefix_length + word + [SLOT] * (n_ctx - prefix_length) + stop)
            behind = range(prefix_length + len(word), n_ctx + len(word))
            slots.append([len(self.frame.before) + index for index in (*range(prefix_length), *behind)])
        self._check_names(names, rows, n_ctx)
        # Normal tensors even under inference mode: a method may keep them and train with them later.
        with torch.inference_mode(False), torch.no_grad():
            ids, end = self._framed(rows)
            places = torch.tensor(slots, dtype=torch.long, device=ids.device).reshape(len(rows), n_ctx)
            vectors = self.table(ids).float()
            vectors.scatter_(1, places[:, :, None].expand(-1, -1, vectors.shape[2]), 0.0)
            return ClassTokens(vectors, places, end)

    def embed_words(self, text: str) -> Tensor:
        """Return token embeddings ``(tokens, dim)`` float32 of plain words, unframed."""
        with torch.inference_mode(False), torch.no_grad():
            ids = torch.tensor(self.encode(text), dtype=torch.long, device=self.table.weight.device)
            vectors: Tensor = self.table(ids).float()
            return vectors

    def token_embeddings(self) -> TokenEmbeddings:
        """Return the tokenizer's words with their embeddings; of words with one embedding, the plainest."""
        words = {number: word for number, word in self.words().items() if number < len(self.table.weight)}
        plainest = sorted(words, key=lambda number: (not words[number].isalpha(), not words[number].islower()))
        with torch.inference_mode(False), torch.no_grad():
            vectors = self.table(torch.arange(len(self.table.weight), device=self.table.weight.device)).float().cpu()
            rows = np.ascontiguousarray(vectors.numpy()[plainest])
            as_bytes = rows.view(np.dtype((np.void, rows.dtype.itemsize * rows.shape[1])))[:, 0]
            first = np.unique(as_bytes, return_index=True)[1]  # of equal vectors, the first
            numbers = sorted(plainest[place] for place in first.tolist())
            return TokenEmbeddings(tuple(words[number] for number in numbers), vectors[numbers])

    def _behind(self, text: str, gap: str = " ") -> list[int]:
        """Return the ids of ``text`` behind other words."""
        return self.encode(text) if self.follow is None else self.follow(text, gap)

    def _framed(self, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Return ids ``(rows, length)`` of framed, padded rows, and the position at which each is read ``(rows,)``."""
        frame, device, padded, ends = self.frame, self.table.weight.device, [], []
        for row in rows:
            ids = [*frame.before, *row, *frame.after]
            room, real = self.limit - len(ids), len(ids)
            ids += [frame.pad] * (min(room, 1) if self.is_cut else room)
            if frame.last is not None:
                ids[-1] = frame.last
            ends.append(real - 1 if self.read is None else self.read(ids))
            padded.append(ids)
        longest = max(ends) + 1 if self.is_cut else self.limit
        table = [[frame.pad if number == SLOT else number for number in ids[:longest]] for ids in padded]
        table = [ids + [frame.pad] * (longest - len(ids)) for ids in table]
        largest = max(map(max, table))
        if largest >= len(self.table.weight):
            raise BackboneError(
                f"the tokenizer of backbone '{self.backbone}' gives the id {largest}, but its text tower has "
                f"{len(self.table.weight)} embeddings: give the tokenizer that it was trained with"
            )
        return torch.tensor(table, device=device), torch.tensor(ends, device=device)

    def _check_names(self, names: Sequence[str], rows: Sequence[Sequence[int]], n_ctx: int) -> None:
        """Check the longest of the class names ``rows``."""
        longest = max(range(len(rows)), key=lambda number: len(rows[number]))
        room = self.limit - self.frame.size - (len(rows[longest]) - n_ctx)
        advice = f"shorten the name or learn fewer context tokens (at most {room})" if room > 0 else "shorten the name"
        self._check_length(f"class '{names[longest]}' with {n_ctx} context tokens", rows[longest], advice)

    def _check_length(self, what: str, row: Sequence[int], advice: str) -> None:
        tokens = len(row) + self.frame.size
        if tokens > self.limit:
            raise BackboneError(
                f"{printable(what, LONGEST)} takes {tokens} tokens, but backbone '{self.backbone}' reads at most "
                f"{self.limit}: {advice}"
            )


def open_clip_words(tokenizer: SimpleTokenizer) -> dict[int, str]:
    """Return token id -> word of open_clip's byte-pair ``tokenizer``; a piece that is no word's end gets a hyphen."""
    frame = {tokenizer.sot_token_id, tokenizer.eot_token_id}
    words = {}
    for number, token in tokenizer.decoder.items():
        if number not in frame:
            piece = token.removesuffix("</w>")
            text = bytes(tokenizer.byte_decoder[letter] for letter in piece).decode("utf-8", errors="backslashreplace")
            words[number] = text if token.endswith("</w>") else f"{text}-"
    return words


def word_piece_words(tokenizer: Tokenizer) -> dict[int, str]:
    """Return token id -> word of a BERT ``tokenizer``; a piece that is no word's beginning gets a hyphen."""
    entries = sorted((number, token) for token, number in tokenizer.get_vocab().items())
    is_special = re.compile(r"\[(PAD|UNK|CLS|SEP|MASK|unused\d+)\]").fullmatch
    return {number: re.sub("^##", "-", token) for number, token in entries if not is_special(token)}
