"""The oracle `minilm`: a sentence encoder as a classifier; scores are cosines of text and label descriptions.

Small enough for the default run, and installed with promptfed. Soft prompts stand between [CLS] and the text, text
prompts before the text; the descriptions are read without any prompt, once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from promptfed.backbones.base import freeze, hash_tensors
from promptfed.backbones.minilm import load_minilm, word_ids
from promptfed.blackbox.backends.base import STEP, LocalBackend, SoftSpace
from promptfed.blackbox.candidate import Answer, OracleAbility, ProposalQuery, Query, ScoreQuery
from promptfed.blackbox.options import OracleOptions
from promptfed.errors import BackboneError, DataError
from promptfed.tasks.form import Form
from promptfed.tasks.sources.base import Item, TextItem

SCALE = 20.0
"""Cosines times this are the scores: sentence-transformers' own scale in training."""
LONGEST = 256
"""Tokens that the model reads; a longer text is cut at its end, as sentence-transformers does."""
WORDS = 2000
"""Common words whose embeddings soft prompts may start from."""


class MiniLM(LocalBackend):
    """``reader``: a BERT encoder without pooler, ``tokenizer``: its fast tokenizer (``load_minilm``)."""

    name = "minilm"
    abilities: frozenset[OracleAbility] = frozenset({"soft prompts", "text prompts", "token proposals"})

    def __init__(self, form: Form, reader: Any, tokenizer: Any) -> None:
        self.form = form
        self._reader: Any = freeze(reader)
        self._tokenizer = tokenizer
        table: Tensor = reader.get_input_embeddings().weight
        self._table = table
        self._start, self._stop = tokenizer.token_to_id("[CLS]"), tokenizer.token_to_id("[SEP]")
        vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda pair: pair[1])
        self._words = [(word, number) for word, number in vocabulary if word.isalpha() and len(word) > 2][:WORDS]
        common = table[[number for _, number in self._words]].detach()
        self.soft = SoftSpace(table.shape[1], table.std().item(), common.clone())
        self._ids: dict[str, list[int]] = {}
        self._labels: dict[tuple[str, ...], Tensor] = {}
        self._loaded_sha256 = self._weights_sha256()
        described = json.dumps([self._loaded_sha256, self.name, SCALE, LONGEST, form.model_dump()], sort_keys=True)
        self.fingerprint = hashlib.sha256(described.encode()).hexdigest()

    def _weights_sha256(self) -> str:
        return hash_tensors(chain(self._reader.named_parameters(), self._reader.named_buffers()))

    def verify_frozen(self) -> None:
        if self._weights_sha256() != self._loaded_sha256:
            raise BackboneError(f"oracle '{self.name}' changed during the run: its weights are not what was loaded")

    # ------------------------------------------------------------------------------------------------ scoring

    def length(self, query: ScoreQuery) -> int:
        soft = 0 if query.prompt.soft is None else len(query.prompt.soft)
        return min(LONGEST, 2 + soft + len(self._of(query.prompt.text)) + len(self._text(query.item)))

    def scores(self, queries: Sequence[ScoreQuery]) -> Tensor:
        texts = self._encode([self._row(query) for query in queries])
        return SCALE * texts @ self._described(queries[0].classes).T

    def _row(self, query: ScoreQuery) -> Tensor:
        """Input embeddings ``(length, dim)`` of one query, framed."""
        soft = query.prompt.soft
        room = LONGEST - 2 - (0 if soft is None else len(soft))
        words = [*self._of(query.prompt.text), *self._text(query.item)][:room]
        if soft is None:
            return self._table[[self._start, *words, self._stop]]
        return torch.cat([self._table[[self._start]], soft.to(self._table), self._table[[*words, self._stop]]])

    def _encode(self, rows: Sequence[Tensor]) -> Tensor:
        """Unit sentence embeddings ``(rows, dim)``: the mean over real tokens."""
        lengths = torch.tensor([len(row) for row in rows])
        longest = -(-int(lengths.max()) // STEP) * STEP
        vectors = torch.stack([F.pad(row, (0, 0, 0, longest - len(row))) for row in rows])
        mask = torch.arange(longest) < lengths[:, None]
        hidden = self._reader(inputs_embeds=vectors, attention_mask=mask.long()).last_hidden_state
        weight = mask[..., None].float()
        return F.normalize((hidden * weight).sum(1) / weight.sum(1), dim=-1)

    @torch.no_grad()
    def _described(self, classes: tuple[str, ...]) -> Tensor:
        if classes not in self._labels:
            framed = [[self._start, *self._of(self.form.description(name)), self._stop] for name in classes]
            self._labels[classes] = self._encode([self._table[ids] for ids in framed])
        return self._labels[classes]

    def _text(self, item: Item) -> list[int]:
        if not isinstance(item, TextItem):
            raise DataError(f"{item.name} is not a text, which is what oracle '{self.name}' reads")
        return self._of(item.text)

    def _of(self, text: str) -> list[int]:
        if text not in self._ids:
            self._ids[text] = word_ids(self._tokenizer, text)
        return self._ids[text]

    # ---------------------------------------------------------------------------------------------- proposals

    def other(self, query: Query) -> Answer:
        """Common words that lie nearest to the mean of the neighbouring tokens. This encoder has no word-predicting
        head (it was trained for sentences), so its embedding table has to stand in for one."""
        if not isinstance(query, ProposalQuery):
            return super().other(query)
        near = [*self._of(query.before)[-3:], *self._of(query.after)[:3]]
        assert self.soft is not None
        words = F.normalize(self.soft.words, dim=-1)
        centre = self._table[near].mean(0) if near else self.soft.words.mean(0)
        best = (words @ centre).topk(min(query.count, len(words))).indices.tolist()
        return Answer(tokens=tuple(self._words[i][0] for i in best))


def load(form: Form, rest: str, options: OracleOptions, device: str, precision: str) -> MiniLM:
    """Raises BackboneError if the package with the model is missing or damaged."""
    backend = MiniLM(form, *load_minilm())
    backend.rows = options.rows
    return backend
