"""Tokenised sentences for a text tower: plain ones as token ids, prompted ones with slots for a learned context."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from promptfed.backbones.base import ClassTokens, Position, TokenEmbeddings
from promptfed.errors import BackboneError
from promptfed.printable import LONGEST, printable

if TYPE_CHECKING:
    from open_clip.tokenizer import SimpleTokenizer
    from tokenizers import Tokenizer


@dataclass(frozen=True)
class Sentences:
    """The tokenizer and embedding table of one text tower.

    ``encode`` gives the ids of a text without the ``start`` and ``stop`` tokens that frame every sentence;
    ``limit`` is the most tokens a sentence may have, frame included; ``backbone`` is named in errors. ``words`` gives
    the word of each token id that stands for text.
    """

    backbone: str
    encode: Callable[[str], list[int]]
    table: nn.Embedding
    start: int
    stop: int
    limit: int
    words: Callable[[], Mapping[int, str]]

    def ids(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return framed ids ``(texts, longest)`` with zeros after the end, and each text's end position ``(texts,)``.

        Raises:
            BackboneError: A text is longer than ``limit``.
        """
        rows = [self.encode(text) for text in texts]
        for text, row in zip(texts, rows, strict=True):
            self._check_length(f"text '{text}'", row, "shorten it")
        return self._frame(rows)

    def class_tokens(self, classes: Sequence[str], n_ctx: int, position: Position) -> ClassTokens:
        """Tokenise class names; see ``Backbone.class_tokens``."""
        if not classes:
            raise BackboneError("cannot tokenise an empty list of classes: give at least one class name")
        prefix_length = {"end": n_ctx, "middle": n_ctx // 2, "front": 0}[position]
        rows, slots = [], []
        for name in (class_name.replace("_", " ") for class_name in classes):
            # Context that follows the name parts it from its full stop; else they are one text, as in CoOp.
            word, stop = (self.encode(f"{name}."), []) if position == "end" else (self.encode(name), self.encode("."))
            row = [0] * prefix_length + word + [0] * (n_ctx - prefix_length) + stop
            advice = "shorten the name or learn fewer context tokens"
            self._check_length(f"class '{name}' with {n_ctx} context tokens", row, advice)
            rows.append(row)
            behind = range(prefix_length + len(word), n_ctx + len(word))
            slots.append([1 + index for index in (*range(prefix_length), *behind)])
        # Normal tensors even under inference mode: a method may keep them and train with them later.
        with torch.inference_mode(False), torch.no_grad():
            ids, end = self._frame(rows)
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
            vectors = self.table.weight.float().cpu()
            ids_by_vector: dict[bytes, int] = {}
            for number in plainest:
                ids_by_vector.setdefault(vectors[number].numpy().tobytes(), number)
            numbers = sorted(ids_by_vector.values())
            return TokenEmbeddings(tuple(words[number] for number in numbers), vectors[numbers])

    def _frame(self, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        longest, device = max(len(row) for row in rows), self.table.weight.device
        ids = [[self.start, *row, self.stop] + [0] * (longest - len(row)) for row in rows]
        end = [len(row) + 1 for row in rows]
        return torch.tensor(ids, device=device), torch.tensor(end, device=device)

    def _check_length(self, what: str, row: Sequence[int], advice: str) -> None:
        tokens = len(row) + 2
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
