"""The oracle `minilm`: a sentence encoder as a classifier; scores are cosines of a text and each label's description.

Small, fast, and installed with promptfed. As in CLIP, a prompt stands before the descriptions by default (``side``
"label"): a text is then read once and for all, and a candidate costs one reading of each description, on however many
texts it is scored. With ``side`` "text" the prompt stands before the text, as in front of a language model.

Worked examples in a prompt (``promptfed.worked_examples``) would drown what stands beside them, so they are read as
texts of their class: its vector is that of the description plus the mean of its examples' vectors, of length 1.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from promptfed.backbones.base import freeze, hash_tensors
from promptfed.backbones.device import pick_device, pick_dtype
from promptfed.backbones.minilm import load_minilm, word_ids
from promptfed.blackbox.oracles.base import STEP, LocalBackend, SoftSpace
from promptfed.blackbox.oracles.query import Candidate, OracleAbility, OracleAnswer, ProposalQuery, Query, ScoreQuery
from promptfed.errors import BackboneError, DataError
from promptfed.examples.base import Item, TextItem
from promptfed.oracle_options import OracleOptions
from promptfed.prompt_template import PromptTemplate
from promptfed.worked_examples import WorkedExample, examples_in

SCALE = 20.0
"""Cosines times this are the scores: sentence-transformers' own scale in training."""
LONGEST = 256
"""Tokens that the model reads; a longer text is cut at its end, as sentence-transformers does."""
WORDS = 2000
"""Common words whose embeddings soft prompts may start from."""
READ_AT_ONCE = 32
"""Sentences in one pass; larger batches are slower on few cores."""
KEPT_PROMPTS = 256
"""Prompts whose descriptions' embeddings are kept."""


class MiniLM(LocalBackend):
    """``reader``: a BERT encoder without pooler, ``tokenizer``: its fast tokenizer (``load_minilm``)."""

    name = "minilm"
    abilities: frozenset[OracleAbility] = frozenset({"soft prompts", "text prompts", "token proposals"})

    def __init__(
        self,
        form: PromptTemplate,
        reader: Any,
        tokenizer: Any,
        *,
        side: Literal["label", "text"] = "label",
        device: str = "cpu",
        precision: str = "float32",
    ) -> None:
        self.form, self.side = form, side
        self._device, self._dtype = pick_device(device), pick_dtype(precision)
        self._reader: Any = freeze(reader).to(self._device, self._dtype)
        self._tokenizer = tokenizer
        self._table: Tensor = reader.get_input_embeddings().weight.float()
        self._start, self._stop = tokenizer.token_to_id("[CLS]"), tokenizer.token_to_id("[SEP]")
        vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda pair: pair[1])
        self._words = [(word, number) for word, number in vocabulary if word.isalpha() and len(word) > 2][:WORDS]
        common = self._table[[number for _, number in self._words]].detach()
        self.soft = SoftSpace(self._table.shape[1], self._table.std().item(), common.clone())
        self._ids: dict[str, list[int]] = {}
        self._texts: dict[str, Tensor] = {}
        self._labels: OrderedDict[tuple[str, tuple[str, ...]], Tensor] = OrderedDict()
        self._parts: OrderedDict[tuple[str, tuple[str, ...]], tuple[str, list[WorkedExample]]] = OrderedDict()
        self._loaded_sha256 = self._weights_sha256()
        described = [self._loaded_sha256, self.name, side, precision, SCALE, LONGEST, form.model_dump()]
        self.fingerprint = hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()

    def _weights_sha256(self) -> str:
        return hash_tensors(chain(self._reader.named_parameters(), self._reader.named_buffers()))

    def verify_frozen(self) -> None:
        if self._weights_sha256() != self._loaded_sha256:
            raise BackboneError(f"oracle '{self.name}' changed during the run: its weights are not what was loaded")

    # ------------------------------------------------------------------------------------------------ scoring

    def length(self, query: ScoreQuery) -> int:
        return 0 if self.side == "label" else len(self._row(query.prompt, self._text(query.item)))

    def fingerprint_of(self, query: Query) -> str:
        is_shown = isinstance(query, ScoreQuery) and self._parted(query.prompt, query.classes)[1]
        return f"{self.fingerprint} with examples" if is_shown else self.fingerprint

    def scores(self, queries: Sequence[ScoreQuery]) -> Tensor:
        classes = queries[0].classes
        if self.side == "text":
            parts = [self._parted(query.prompt, classes) for query in queries]
            pairs = zip(queries, parts, strict=True)
            texts = self._encode([self._row(prompt, self._text(query.item)) for query, (prompt, _) in pairs])
            keys = [json.dumps([[example.text, example.name] for example in examples]) for _, examples in parts]
        else:
            self._read([query.item for query in queries])
            texts = torch.stack([self._texts[query.item.content_id()] for query in queries])
            keys = [json.dumps(query.described, sort_keys=True) for query in queries]
        described = self._described({key: q.prompt for key, q in zip(keys, queries, strict=True)}, classes)
        return SCALE * torch.einsum("nd,nkd->nk", texts, torch.stack([described[key] for key in keys]))

    def _read(self, items: Sequence[Item]) -> None:
        """Embed those texts that are not in memory yet."""
        fresh = {item.content_id(): item for item in items if item.content_id() not in self._texts}
        rows = [self._row(Candidate(), self._text(item)) for item in fresh.values()]
        self._texts.update(zip(fresh, self._encode_all(rows), strict=True))

    def _described(self, prompts: Mapping[str, Candidate], classes: tuple[str, ...]) -> dict[str, Tensor]:
        """Return unit embeddings ``(classes, dim)`` of the descriptions with each prompt; recent ones are kept."""
        words = [self._of(self.form.description(name)) for name in classes]
        fresh = {key: self._parted(p, classes) for key, p in prompts.items() if (key, classes) not in self._labels}
        leads = [prompt if self.side == "label" else Candidate() for prompt, _ in fresh.values()]
        embeddings = self._encode_all([self._row(lead, word) for lead in leads for word in words])
        for number, (key, (_, examples)) in enumerate(fresh.items()):
            descriptions = torch.stack(embeddings[number * len(words) : (number + 1) * len(words)])
            self._labels[key, classes] = self._beside(descriptions, examples, classes)
        described = {key: self._labels[key, classes] for key in prompts}
        while len(self._labels) > KEPT_PROMPTS:
            self._labels.popitem(last=False)
        return described

    def _parted(self, prompt: Candidate, classes: tuple[str, ...]) -> tuple[Candidate, list[WorkedExample]]:
        """Return ``prompt`` without its worked examples, and these; recent ones are kept."""
        key = prompt.text, classes
        if key not in self._parts:
            self._parts[key] = examples_in(self.form, prompt.text, classes)
            while len(self._parts) > KEPT_PROMPTS:
                self._parts.popitem(last=False)
        rest, examples = self._parts[key]
        return (replace(prompt, text=rest) if examples else prompt), examples

    def _beside(self, descriptions: Tensor, examples: Sequence[WorkedExample], classes: Sequence[str]) -> Tensor:
        """Return the vectors of classes ``(classes, dim)``: their ``descriptions`` and the means of their examples."""
        if not examples:
            return descriptions
        items = [TextItem(example.text) for example in examples]
        self._read(items)
        texts = torch.stack([self._texts[item.content_id()] for item in items])
        holders = torch.tensor([[example.name == name for example in examples] for name in classes]).to(texts)
        return F.normalize(descriptions + holders @ texts / holders.sum(1, keepdim=True).clamp(min=1), dim=-1)

    def _encode_all(self, rows: Sequence[Tensor]) -> list[Tensor]:
        """Return embeddings ``(dim,)`` of any number of rows, like lengths together."""
        embeddings: dict[int, Tensor] = {}
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        for start in range(0, len(order), READ_AT_ONCE):
            batch = order[start : start + READ_AT_ONCE]
            embeddings.update(zip(batch, self._encode([rows[i] for i in batch]), strict=True))
        return [embeddings[i] for i in range(len(rows))]

    def _row(self, prompt: Candidate, words: Sequence[int]) -> Tensor:
        """Return input embeddings ``(length, dim)`` of prompt and words, framed."""
        soft = prompt.soft
        room = LONGEST - 2 - (0 if soft is None else len(soft))
        words = [*self._of(prompt.text), *words][:room]
        if soft is None:
            return self._table[[self._start, *words, self._stop]]
        return torch.cat([self._table[[self._start]], soft.to(self._table), self._table[[*words, self._stop]]])

    @torch.no_grad()
    def _encode(self, rows: Sequence[Tensor]) -> Tensor:
        """Return unit sentence embeddings ``(rows, dim)``: the mean over real tokens."""
        lengths = torch.tensor([len(row) for row in rows])
        longest = -(-int(lengths.max()) // STEP) * STEP
        vectors = torch.stack([F.pad(row, (0, 0, 0, longest - len(row))) for row in rows])
        mask = (torch.arange(longest) < lengths[:, None]).to(self._device)
        hidden = self._reader(inputs_embeds=vectors.to(self._dtype), attention_mask=mask.long()).last_hidden_state
        weight = mask[..., None].float()
        return F.normalize((hidden.float() * weight).sum(1) / weight.sum(1), dim=-1)

    def _text(self, item: Item) -> list[int]:
        if not isinstance(item, TextItem):
            raise DataError(f"{item.name} is not a text, which is what oracle '{self.name}' reads")
        return self._of(item.text)

    def _of(self, text: str) -> list[int]:
        if text not in self._ids:
            self._ids[text] = word_ids(self._tokenizer, text)
        return self._ids[text]

    # ---------------------------------------------------------------------------------------------- proposals

    def other(self, query: Query) -> OracleAnswer:
        """Return common words that lie nearest to the mean of the neighbouring tokens.

        This encoder has no word-predicting head (it was trained for sentences), so its embedding table stands in for
        one.
        """
        if not isinstance(query, ProposalQuery):
            return super().other(query)
        near = [*self._of(query.before)[-3:], *self._of(query.after)[:3]]
        assert self.soft is not None
        words = F.normalize(self.soft.words, dim=-1)
        centre = self._table[near].mean(0) if near else self.soft.words.mean(0)
        best = (words @ centre).topk(min(query.count, len(words))).indices.tolist()
        return OracleAnswer(tokens=tuple(self._words[i][0] for i in best))


def load(form: PromptTemplate, rest: str, options: OracleOptions, device: str, precision: str) -> MiniLM:
    """Load the oracle.

    Raises:
        BackboneError: The package with the model is missing or damaged.
    """
    backend = MiniLM(form, *load_minilm(), side=options.side, device=device, precision=precision)
    backend.rows = options.rows if options.side == "text" else 16 * options.rows
    return backend
