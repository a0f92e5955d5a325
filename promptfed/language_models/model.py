"""A frozen language model of transformers that a method asks with gradients: causal, masked, T5, or an encoder."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import chain
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from promptfed.backbones.base import freeze, hash_tensors
from promptfed.errors import ConfigError
from promptfed.examples.base import ANSWER_CLASSES, Item
from promptfed.frozen_model import Kind
from promptfed.language_models.answers import Answers
from promptfed.language_models.changed_layers import changed_layers
from promptfed.language_models.head_input import gathered, head_input, softened
from promptfed.language_models.insert import NO_INSERT, Insert
from promptfed.language_models.keys_values import behind_prefix, by_layer, keys_and_values
from promptfed.language_models.layers import attention_shape, matrices_of, usual_targets
from promptfed.language_models.lower_layers import LowerLayers
from promptfed.language_models.pretrained import Family, longest_input
from promptfed.language_models.row_batches import padded_rows, row_batches
from promptfed.language_models.shared_prefix import Beginnings, CausalReader
from promptfed.language_models.text_rows import RowWriter
from promptfed.local_model import LocalModel
from promptfed.prompt_template import PromptTemplate
from promptfed.types import Split
from promptfed.usage import Usage

LONGEST = 1024
"""Tokens of a row, or fewer where the model reads fewer."""
SCALE = 20.0
"""Cosines of an encoder times this are scores: sentence-transformers' own scale in training."""


class LanguageModel(LocalModel):
    """``model`` and fast ``tokenizer`` of transformers, frozen. An insert is given to each reading as a value.

    ``family``: a "causal" model answers at a row's last token, a "masked" one at its mask, an "encoder-decoder" at the
    decoder's first place; an "encoder" has no head that predicts words, and answers with the mean over its tokens.

    A soft prompt stands before everything, [CLS] and BOS included, which is PEFT's layout. A causal model reads what
    all rows share (a soft prompt, a prefix) once, and goes on from its keys and values; gradients flow through these.
    What the layers below all that is trained make of a text is computed once in a process.
    """

    kind: ClassVar[Kind] = "language model"
    examples: ClassVar[str] = "texts"

    def __init__(self, name: str, form: PromptTemplate, model: Any, tokenizer: Any, family: Family) -> None:
        super().__init__(name, torch.device(model.device))
        self._form, self.family = form, family
        self.model: Any = freeze(model)
        self.dtype = model.dtype
        self.longest = longest_input(model, tokenizer, LONGEST)
        self.writer = RowWriter(tokenizer, form, family, self.longest, name)
        self.tokens, self.tokenizer = self.writer.tokens, tokenizer
        self._embed = model.get_input_embeddings()
        self.width = int(self._embed.weight.shape[1])
        self.layers, self.kv_heads, self.head_size = attention_shape(model.config)
        self._modules = dict(model.named_modules())
        self._reader = CausalReader(model) if family == "causal" else None
        self.lower = LowerLayers(model, self.layers)
        self._lock = threading.RLock()  # hooks of one reading must not meet another thread's
        self._labels: dict[tuple[str, ...], list[int]] = {}
        self._class_means: dict[tuple[str, ...], Tensor] = {}
        self._loaded = self._weights_sha256()
        letters = hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest()
        facts = ["language model 1", self._loaded, letters, str(self.dtype), family, self.longest]
        self._fingerprint = hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    def __reduce__(self) -> tuple[type[LanguageModel], tuple[Any, ...]]:
        """Pickle what it is made of; the lock and the caches are each process's own."""
        return LanguageModel, (self.name, self.form, self.model, self.tokenizer, self.family)

    # ----------------------------------------------------------------------------------- what every model has

    @property
    def form(self) -> PromptTemplate:
        """How a text and a hand-written prompt are put to it, and what each class is called."""
        return self._form

    def with_form(self, form: PromptTemplate) -> LanguageModel:
        """Return the same model for texts that are put as ``form`` says; the weights are shared."""
        return LanguageModel(self.name, form, self.model, self.tokenizer, self.family)

    @property
    def fingerprint(self) -> str:
        return self._fingerprint

    @property
    def abilities(self) -> frozenset[str]:
        words = {"label words"} if self.has_words else set()
        return frozenset(words | ({"generation"} if self.family in ("causal", "encoder-decoder") else set()))

    @cached_property
    def answers(self) -> Answers:
        """What reads and writes answers in free text. Raises ConfigError of a model that writes no texts."""
        return Answers(self)

    @property
    def has_words(self) -> bool:
        """Whether it has a head that predicts words."""
        return self.family != "encoder"

    def check_offers(self, needed: Iterable[str], what: str) -> None:
        lacking = sorted(set(needed) - self.abilities)
        if lacking:
            kinds = "causal" if "generation" in lacking else "causal or masked"
            raise ConfigError(
                f"{what} needs a language model with {' and '.join(lacking)}, which '{self.name}' has not: use a "
                f"{kinds} one, such as --backbone lm:gemma or lm:FOLDER"
            )

    def _weights_sha256(self) -> str:
        return hash_tensors(chain(self.model.named_parameters(), self.model.named_buffers()))

    def template_scores(self, template: str, split: Split, classes: Sequence[str]) -> Tensor:
        """Return the scores ``(n, classes)`` of texts under a hand-written prompt: label words, else cosines.

        Of questions with answers in free text they are those of ``promptfed.scores.answer_scores``.
        """
        if tuple(classes) == ANSWER_CLASSES:
            return self.answers.scores(NO_INSERT, split.items, classes, template)
        with torch.no_grad():
            states = self.states(split.items, prompt=template)
            if self.has_words:
                return self.word_logits(states, self.label_ids(classes))
            return self.cosines(states, classes)

    # ------------------------------------------------------------------------------------------------- shapes

    @cached_property
    def matrices(self) -> dict[str, tuple[int, int]]:
        """Path of every linear layer but the word head, as in PEFT's file keys -> (out, in)."""
        return matrices_of(self.model)

    @property
    def default_targets(self) -> tuple[str, ...]:
        """The last parts of the paths of the layers that PEFT changes by default."""
        return usual_targets(self.matrices)

    @cached_property
    def parameters(self) -> int:
        """The number of frozen weights."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    def embed(self, ids: Sequence[int]) -> Tensor:
        """Return the input vectors ``(ids, width)`` of tokens in float32, scaled as the model scales them."""
        vectors: Tensor = self._embed(torch.tensor(list(ids), dtype=torch.int64, device=self.device))
        return vectors.float()

    # ------------------------------------------------------------------------------------------------ reading

    def states(
        self, items: Sequence[Item], insert: Insert = NO_INSERT, *, prompt: str = "", reserve: int = 0
    ) -> Tensor:
        """Return the state ``(items, width)`` that answers for each text; gradients flow to ``insert``.

        Args:
            items: The texts.
            insert: What is read beside them.
            prompt: A hand-written prompt, where the template has its place for one.
            reserve: Tokens of the insert, which texts leave free.
        """
        rows = [self.writer.row(item, prompt, reserve) for item in items]
        ids = [row.ids for row in rows]
        if not self.has_words:
            return self.hidden(ids, insert)
        at = [[0] if self.family == "encoder-decoder" else [row.at] for row in rows]
        return self.hidden(ids, insert, at)[:, 0]

    def tokens_read(self, item: Item) -> tuple[tuple[int, ...], int]:
        """Return the token ids of a text as it is read without an insert, and the position whose state answers."""
        row = self.writer.row(item)
        return row.ids, row.at

    def hidden(
        self,
        rows: Sequence[Sequence[int]],
        insert: Insert = NO_INSERT,
        at: Sequence[Sequence[int]] | None = None,
        answers: Sequence[Sequence[int]] | None = None,
    ) -> Tensor:
        """Return final hidden states in float32, as the word head takes them; gradients flow to ``insert``.

        Rows of like lengths are read together, padded on the right.

        Args:
            rows: Token ids of each row, with the tokenizer's markers.
            insert: What is read beside them.
            at: Positions ``(rows, k)`` in each row, which count without the insert; of an encoder-decoder, positions in
                the decoder. None: the mean over all tokens, those of a soft prompt included.
            answers: What the decoder of an encoder-decoder reads behind its start token; None: nothing.

        Returns:
            ``(rows, k, width)``, or the means ``(rows, width)``.
        """
        if not len(rows):
            return torch.zeros(0, *(() if at is None else (0,)), self.width, device=self.device)
        parts, order = [], []
        with self._lock, changed_layers(self._modules, insert):
            shared = self._shared(insert)
            lower = self.lower.states(rows, insert, lambda some: self._read_ends(some, insert, shared))
            for batch in row_batches([len(row) for row in rows]):
                some = [rows[k] for k in batch]
                places = None if at is None else torch.tensor([list(at[k]) for k in batch], device=self.device)
                words = None if answers is None else [answers[k] for k in batch]
                with self.lower.given(lower, batch):
                    parts.append(self._read(some, insert, shared, places, words).float())
                order += batch
        spared = lower.known * lower.layer // max(1, self.layers)
        self._usage += Usage(model_rows=len(rows), model_tokens=sum(map(len, rows)) - spared)
        positions = torch.empty(len(order), dtype=torch.int64)
        positions[torch.tensor(order)] = torch.arange(len(order))
        return torch.cat(parts)[positions.to(self.device)]

    def _shared(self, insert: Insert) -> Beginnings | None:
        """Return the keys and values that all rows of a causal model go on from; None: there are none."""
        behind = None if insert.prefix is None else self.prefix_states(insert.prefix)
        if self._reader is None or insert.soft is None or not self._can_share:
            return behind
        soft = insert.soft.to(self.device, self.dtype)
        return self._reader.beginnings([soft], None if behind is None else behind.select([0]))

    @cached_property
    def _can_share(self) -> bool:
        """Whether a causal model takes what rows begin with apart from the rest; tried once, on common tokens."""
        assert self._reader is not None
        ids = list(self.tokens.words(9).values())
        if len(ids) < 9:
            ids = list(range(9))
        with torch.no_grad():
            return self._reader.agrees(self.embed(ids).to(self.dtype))

    def prefix_states(self, prefix: Tensor) -> Beginnings:
        """Return a prefix ``(n, layers * 2 * kv_width)`` as keys and values ``(1, kv_heads, n, head_size)`` a layer."""
        lengths = torch.tensor([len(prefix)], device=self.device)
        return Beginnings(by_layer(prefix.to(self.device, self.dtype), self.layers, self.kv_heads), lengths, lengths)

    def keys_and_values(self, ids: Sequence[int]) -> Tensor:
        """Return what the layers keep of a text that is read alone, ``(ids, layers * 2 * kv_width)`` float32.

        Raises:
            BackboneError: The model takes no prefix of keys and values.
        """
        prefix = keys_and_values(self.model.base_model, ids, self.device)
        self._usage += Usage(model_rows=1, model_tokens=len(ids))
        return prefix.float()

    def _read(
        self,
        rows: Sequence[Sequence[int]],
        insert: Insert,
        shared: Beginnings | None,
        at: Tensor | None,
        answers: Sequence[Sequence[int]] | None,
    ) -> Tensor:
        """Read one batch; returns ``(rows, k, width)`` or ``(rows, width)``."""
        vectors = [self._embed(torch.tensor(list(row), device=self.device)) for row in rows]
        soft = None if insert.soft is None else insert.soft.to(self.device, self.dtype)
        front = 0
        if soft is not None and (shared is None or self._reader is None or not self._can_share):
            vectors, front = [torch.cat([soft, row]) for row in vectors], len(soft)
        if self.family == "encoder-decoder":
            return self._decode(vectors, at, answers)
        if at is not None and self.has_words:
            with head_input(self.model, at + front) as inputs:
                self._output(self.model, vectors, insert, shared)
            return inputs[0]
        states: Tensor = self._output(self.model.base_model, vectors, insert, shared).last_hidden_state
        if at is not None:
            return gathered(states, at + front)
        lengths = torch.tensor([len(row) for row in vectors], device=self.device)
        weight = (torch.arange(states.shape[1], device=self.device) < lengths[:, None])[..., None].float()
        return (states.float() * weight).sum(1) / weight.sum(1)

    def _read_ends(self, rows: Sequence[Sequence[int]], insert: Insert, shared: Beginnings | None) -> Tensor:
        """Read one batch up to a state that depends on all tokens: the last one's, the decoder's first, or the mean."""
        if not self.has_words:
            return self._read(rows, insert, shared, None, None)
        ends = [[0 if self.family == "encoder-decoder" else len(row) - 1] for row in rows]
        return self._read(rows, insert, shared, torch.tensor(ends, device=self.device), None)

    def _output(self, part: Any, vectors: Sequence[Tensor], insert: Insert, shared: Beginnings | None) -> Any:
        """Read a batch with ``part``, the model or its base model; returns what that returns."""
        if self._reader is not None:
            return self._reader.read(part, vectors, None if shared is None else shared.select([0] * len(vectors)))[0]
        padded, mask = padded_rows(vectors)
        if insert.prefix is None:
            return part(inputs_embeds=padded, attention_mask=mask.long())
        layers = by_layer(insert.prefix.to(self.device, self.dtype), self.layers, self.kv_heads)
        mask = torch.cat([mask.new_ones(len(vectors), len(insert.prefix)), mask], 1)
        with behind_prefix(self.model.base_model, layers, len(vectors)):
            return part(inputs_embeds=padded, attention_mask=mask.long())

    def _decode(self, vectors: Sequence[Tensor], at: Tensor | None, answers: Sequence[Sequence[int]] | None) -> Tensor:
        """Read a batch with the encoder, and the decoder's start token and answers with the decoder."""
        padded, mask = padded_rows(vectors)
        start = self.model.config.decoder_start_token_id
        lines = [[start, *line] for line in answers or [()] * len(vectors)]
        longest = max(map(len, lines))
        ids = torch.tensor([[*line, *[start] * (longest - len(line))] for line in lines], device=self.device)
        with head_input(self.model, None) as inputs:
            self.model(inputs_embeds=padded, attention_mask=mask.long(), decoder_input_ids=ids, use_cache=False)
        if at is None:
            raise ConfigError(f"'{self.name}' is an encoder-decoder, which has no mean over tokens: use label words")
        return gathered(inputs[0], at)

    @property
    def goes_on(self) -> bool:
        """Whether it can read on from the keys and values of what it has read."""
        return self._reader is not None and self._can_share

    @torch.no_grad()
    def read_on(
        self, rows: Sequence[Sequence[int]], insert: Insert = NO_INSERT, behind: Beginnings | None = None
    ) -> tuple[Tensor, Beginnings]:
        """Read ``rows`` behind others, as long as the model ``goes_on``.

        Args:
            rows: Token ids, one or more each.
            insert: What is read beside them, and was beside what is behind.
            behind: What each row continues; None: its start.

        Returns:
            Final hidden states ``(rows, width)`` of the last tokens, and what has been read.
        """
        assert self._reader is not None, "goes_on was not asked"
        with self._lock, changed_layers(self._modules, insert):
            if behind is None and (shared := self._shared(insert)) is not None:
                behind = shared.select([0] * len(rows))
            vectors = [self._embed(torch.tensor(list(row), device=self.device)) for row in rows]
            last = torch.tensor([[len(row) - 1] for row in rows], device=self.device)
            with head_input(self.model, last) as inputs:
                _, beginnings = self._reader.read(self.model, vectors, behind, keep=True)
        self._usage += Usage(model_rows=len(rows), model_tokens=sum(map(len, rows)))
        assert beginnings is not None, "which was asked to be kept"
        return inputs[0][:, 0].float(), beginnings

    # ------------------------------------------------------------------------------------------------ answers

    def word_logits(self, hidden: Tensor, ids: Sequence[int] | None) -> Tensor:
        """Return logits ``(..., ids)`` float32 of some words: only their rows of the head are computed.

        Args:
            hidden: What ``hidden`` returned, ``(..., width)``.
            ids: The words; None: the whole vocabulary.
        """
        head = self.model.get_output_embeddings()
        weight, bias = head.weight, getattr(head, "bias", None)
        if ids is not None:
            index = torch.tensor(list(ids), device=self.device)
            weight, bias = weight[index], None if bias is None else bias[index]
        return softened(F.linear(hidden.to(weight.dtype), weight, bias).float(), self.model.config)

    def label_ids(self, classes: Sequence[str]) -> list[int]:
        """Return the token of each class's label word. Raises ConfigError if two are the same."""
        names = tuple(classes)
        if names not in self._labels:
            self._labels[names] = self.writer.label_ids(names)
        return self._labels[names]

    @torch.no_grad()
    def class_means(self, classes: Sequence[str]) -> Tensor:
        """Return unit means ``(classes, width)`` of the classes' descriptions, read once without an insert."""
        names = tuple(classes)
        if names not in self._class_means:
            tokens = self.tokens
            rows = [[*tokens.first, *tokens.start(self.form.description(name)), *tokens.last] for name in names]
            self._class_means[names] = F.normalize(self.hidden([row[: self.longest] for row in rows]), dim=-1)
        return self._class_means[names]

    def cosines(self, means: Tensor, classes: Sequence[str]) -> Tensor:
        """Return ``SCALE * cos`` ``(rows, classes)`` of rows' means ``(rows, width)`` and label descriptions."""
        return SCALE * F.normalize(means, dim=-1) @ self.class_means(classes).T
