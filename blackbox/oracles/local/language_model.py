"""The oracle `local:MODEL`: a causal or masked language model of transformers in this process, used only by its scores.

The score of a class is the log-probability of its label word, behind the filled-in template (causal) or at its
``{{ mask }}`` (masked). Soft prompts stand as input embeddings in the place of ``{{ prompt }}``.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Generator, Hashable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from promptfed.backbones.base import hash_tensors
from promptfed.backbones.device import pick_device, pick_dtype
from promptfed.blackbox.oracles.base import STEP, LocalBackend, SoftSpace
from promptfed.blackbox.oracles.budget import Budget
from promptfed.blackbox.oracles.local.prefix_plan import SharedRows, choose, shared_rows
from promptfed.blackbox.oracles.local.writing import write
from promptfed.blackbox.oracles.query import OracleAbility, OracleAnswer, ProposalQuery, Query, ScoreQuery, TextQuery
from promptfed.errors import BackboneError, ConfigError, DataError
from promptfed.examples.base import TextItem
from promptfed.language_models.pretrained import load_pretrained, longest_input
from promptfed.language_models.shared_prefix import CausalReader
from promptfed.language_models.tokens import Tokens
from promptfed.oracle_options import OracleOptions
from promptfed.prompt_template import WORDS_HINT, PromptTemplate

LOG = logging.getLogger(__name__)
LONGEST = 1024
"""Tokens of a request, or fewer where the model reads fewer."""
WORDS = 2000
"""Common words whose embeddings soft prompts may start from."""
PROPOSED = 50
"""Tokens considered for each proposed word: most of the likeliest ones are no words."""
SOFT, MASK = "\x00", "\x01"
"""Placeholders of the soft prompt and the mask in a rendered template."""
WAY = "label words 1"
"""Version of the scoring; part of the fingerprint, to be changed with it."""


Row = list[int | Tensor]
"""Ids, and the vectors of soft prompts among them."""


class LanguageModel(LocalBackend):
    """``model`` and ``tokenizer`` of transformers (``load_pretrained``); ``masked``: it fills in masks.

    A masked model whose template has no ``{{ mask }}`` finds the mask at the template's end.

    Label words: where the labels' first tokens differ, the first token alone is scored; else, with a causal model, the
    sum of the log-probabilities of all tokens of the word. Which of the two is said in the log.

    A request that is too long loses the end of the example's text; prompt, template and label stay whole.
    """

    def __init__(self, name: str, form: PromptTemplate, model: Any, tokenizer: Any, *, masked: bool) -> None:
        if MASK in form.render("prompt", "text", MASK) and not masked:
            raise ConfigError(
                f"template '{form.template}' holds a mask, but '{name}' says what comes next: leave it out"
            )
        self.name, self.form, self.masked = name, form, masked
        self.model, self.tokens = model, Tokens(tokenizer)
        self._device = model.device
        self._limit = longest_input(model, tokenizer, LONGEST)
        self._embed = model.get_input_embeddings()
        self._mask = [tokenizer.mask_token_id] if masked else []
        # A causal model goes on behind the text: an end marker there would end it.
        self._last = self.tokens.last if masked else []
        start = getattr(tokenizer, "bos_token_id", None)
        self._empty = [tokenizer.eos_token_id if start is None else start]
        self._words = self.tokens.words(WORDS)
        offers: set[OracleAbility] = {"soft prompts", "text prompts", "token proposals"}
        self.abilities = frozenset(offers if masked else {*offers, "generation"})
        common = self.embedded(list(self._words.values())).float().cpu()
        self.soft = SoftSpace(common.shape[1], self._deviation(), common)
        self._reader = None if masked else CausalReader(model)
        self._shared: tuple[SharedRows, dict[int, int]] | None = None
        self._labels: dict[tuple[str, ...], list[list[int]]] = {}
        self._loaded_sha256 = self._weights_sha256()
        letters = hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest()
        described = [WAY, self._loaded_sha256, letters, str(model.dtype), masked, self._limit, form.model_dump()]
        self.fingerprint = hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()

    def _weights_sha256(self) -> str:
        return hash_tensors(chain(self.model.named_parameters(), self.model.named_buffers()))

    def verify_frozen(self) -> None:
        if self._weights_sha256() != self._loaded_sha256:
            raise BackboneError(f"oracle '{self.name}' changed during the run: its weights are not what was loaded")

    @torch.no_grad()
    def embedded(self, ids: Sequence[int]) -> Tensor:
        """Return the input embeddings ``(ids, dim)`` of the first block.

        They are the table's rows, times the model's scale (Gemma: the root of its width). Soft prompts live in this
        space and are not scaled.
        """
        vectors: Tensor = self._embed(torch.tensor(list(ids), dtype=torch.int64, device=self._device))
        return vectors

    def _deviation(self) -> float:
        """Return the standard deviation of token embeddings' entries, over at most 8,192 tokens spread evenly."""
        size = len(self._embed.weight)
        return self.embedded(range(0, size, -(-size // 8192))).float().std().item()

    # ------------------------------------------------------------------------------------------------ scoring

    def length(self, query: ScoreQuery) -> int:
        if self._shared is not None:
            shared, number = self._shared
            return len(shared.rest[number[id(query)]])
        soft = 0 if query.prompt.soft is None else len(query.prompt.soft)
        return soft + sum(len(part) for part in self._parts(query, self._text(query)) if isinstance(part, list))

    def scores(self, queries: Sequence[ScoreQuery]) -> Tensor:
        labels = self._label_ids(queries[0].classes)
        is_one = all(len(label) == 1 for label in labels)
        if self._reader is not None and (self._shared is not None or not is_one) and self._can_share:
            return self._scores_in_parts(self._reader, queries, labels)
        rows = [self._row(query, max(map(len, labels)) - 1) for query in queries]
        if is_one:
            at = [[self._answer_position(row)] for row in rows]
            log_probabilities = self._log_probabilities([self._vectors(row) for row in rows], at)
            return log_probabilities[:, 0, [label[0] for label in labels]]
        return torch.stack([self._continued(rows, label) for label in labels], 1)

    def _continued(self, rows: Sequence[Row], label: list[int]) -> Tensor:
        """Return the log-probability ``(rows,)`` of all tokens of ``label`` behind each row."""
        at = [list(range(len(row) - 1, len(row) - 1 + len(label))) for row in rows]
        log_probabilities = self._log_probabilities([self._vectors([*row, *label[:-1]]) for row in rows], at)
        return log_probabilities[:, range(len(label)), label].sum(1)

    def _scores_in_parts(
        self, reader: CausalReader, queries: Sequence[ScoreQuery], labels: Sequence[list[int]]
    ) -> Tensor:
        """Return what ``scores`` does: rows are read behind their beginnings, and longer labels behind the rows."""
        longest, behind = max(map(len, labels)), None
        if self._shared is None:
            rows = [self._vectors(self._row(query, longest - 1)) for query in queries]
        else:
            shared, numbers = self._shared
            places = [numbers[id(query)] for query in queries]
            rows = [self._vectors(shared.rest[k]) for k in places]
            behind = shared.beginnings.select([shared.group[k] for k in places])
        at = torch.tensor([[len(row) - 1] for row in rows], device=self._device)
        with self._head_at(at):
            output, read = reader.read(self.model, rows, behind, keep=longest > 1)
        scores: Tensor = output.logits[:, 0].float().log_softmax(-1)[:, [label[0] for label in labels]]
        whole = None if read is None else read.select(range(len(rows)))
        for number, label in enumerate(labels):
            if len(label) > 1:
                ends = [self.embedded(label[:-1])] * len(rows)
                logits: Tensor = reader.read(self.model, ends, whole)[0].logits
                scores[:, number] += logits.float().log_softmax(-1)[:, range(len(label) - 1), label[1:]].sum(1)
        return scores

    @cached_property
    def _can_share(self) -> bool:
        """Return whether the model takes what rows begin with apart from the rest; tried once, on common words."""
        assert self._reader is not None
        return self._reader.agrees(self.embedded(list(range(9))))

    def _log_probabilities(self, rows: Sequence[Tensor], at: Sequence[Sequence[int]]) -> Tensor:
        """Return log-probabilities ``(rows, k, vocabulary)`` float32 at positions ``at`` ``(rows, k)`` only.

        Rows are filled up on the right, where the mask hides the filling from both kinds of model, and positions count
        from each row's own start.
        """
        lengths = torch.tensor([len(row) for row in rows])
        longest = min(-(-int(lengths.max()) // STEP) * STEP, max(self._limit, int(lengths.max())))
        vectors = torch.stack([F.pad(row, (0, 0, 0, longest - len(row))) for row in rows])
        mask = (torch.arange(longest) < lengths[:, None]).long().to(self._device)
        places = torch.tensor([list(positions) for positions in at], device=self._device)
        more: dict[str, Any] = {} if self.masked else {"use_cache": False}
        with self._head_at(places):
            logits: Tensor = self.model(inputs_embeds=vectors, attention_mask=mask, **more).logits
        return logits.float().log_softmax(-1)

    @contextmanager
    def _head_at(self, at: Tensor) -> Iterator[None]:
        """Give the model's head only the hidden states at ``at`` ``(rows, k)``."""

        def select(module: Any, inputs: Any, output: Any) -> Any:
            hidden = output.last_hidden_state
            output.last_hidden_state = hidden.gather(1, at[..., None].expand(-1, -1, hidden.shape[-1]))
            return output

        handle = self.model.base_model.register_forward_hook(select)
        try:
            yield
        finally:
            handle.remove()

    # -------------------------------------------------------------------------------------------------- texts

    def _row(self, query: ScoreQuery, more: int) -> Row:
        """Return ids, and the vectors of soft prompts among them, that fit the model with ``more`` tokens behind."""
        text, room = self._text(query), self._limit - more
        row = self._framed(query, text)
        while len(row) > room:
            if not text:
                raise ConfigError(
                    f"a prompt of {len(row)} tokens with its template leaves no room for a text: '{self.name}' reads "
                    f"{room}; shorten the prompt or the template"
                )
            text = self.tokens.shortened(text, len(row) - room)
            row = self._framed(query, text)
        return row

    def _framed(self, query: ScoreQuery, text: str) -> Row:
        row: Row = [*self.tokens.first]
        for part in self._parts(query, text):
            row += part if isinstance(part, list) else list(part.unbind())
        return [*row, *self._last] or [*self._empty]

    def _parts(self, query: ScoreQuery, text: str) -> list[list[int] | Tensor]:
        """Return the parts between the tokenizer's own markers: ids of texts, the mask, the soft prompt's vectors."""
        soft, prompt = query.prompt.soft, _without_marks(query.prompt.text)
        pieces = self._pieces(prompt if soft is None else f"{SOFT} {prompt}", text)
        parts: list[list[int] | Tensor] = []
        for number, piece in enumerate(pieces):
            if piece == SOFT and soft is not None:
                parts.append(soft)
            elif piece == MASK:
                parts.append(self._mask)
            else:
                # The space before a soft prompt or mask belongs to the word that stands there.
                stripped = piece if number == len(pieces) - 1 else piece.rstrip(" ")
                parts.append(self.tokens.following(stripped) if parts else self.tokens.start(stripped))
        return parts

    def _pieces(self, prompt: str, text: str) -> list[str]:
        """Split the filled-in template at SOFT and MASK."""
        filled_in = self.form.render(prompt, _without_marks(text), MASK)
        if self.masked and MASK not in filled_in:
            filled_in = f"{filled_in} {MASK}"
        return [piece for piece in re.split(f"([{SOFT}{MASK}])", filled_in) if piece]

    def _answer_position(self, row: Sequence[int | Tensor]) -> int:
        """Return the position whose prediction is the answer."""
        if not self.masked:
            return len(row) - 1
        return next(k for k, part in enumerate(row) if isinstance(part, int) and part == self._mask[0])

    def _vectors(self, row: Sequence[int | Tensor]) -> Tensor:
        """Return input embeddings ``(length, dim)``."""
        vectors = self.embedded([part if isinstance(part, int) else 0 for part in row])
        places = [k for k, part in enumerate(row) if isinstance(part, Tensor)]
        if places:
            vectors[places] = torch.stack([row[k] for k in places]).to(vectors)  # type: ignore[misc]
        return vectors

    def _text(self, query: ScoreQuery) -> str:
        if not isinstance(query.item, TextItem):
            raise DataError(f"{query.item.name} is not a text, which is what oracle '{self.name}' reads")
        return query.item.text

    def _label_ids(self, classes: tuple[str, ...]) -> list[list[int]]:
        """Return the tokens of each label that are scored: the first one, or all of them."""
        if classes in self._labels:
            return self._labels[classes]
        front = "".join(self._pieces("prompt", "text")).split(MASK)[0]
        words = [self.form.word(name) for name in classes]
        labels = self.tokens.answers(words, front, at_mask=self.masked)
        if not all(labels):
            raise ConfigError(f"class '{classes[labels.index([])]}' has an empty label word: {WORDS_HINT}")
        twice = {label[0] for label in labels if [label_ids[0] for label_ids in labels].count(label[0]) > 1}
        if not twice:
            labels = [label[:1] for label in labels]
        elif self.masked or len({tuple(label) for label in labels}) < len(labels):
            clashes = [word for word, label in zip(words, labels, strict=True) if label[0] in twice]
            raise ConfigError(
                f"label words {', '.join(clashes)} begin with the same token, so '{self.name}' cannot tell them apart: "
                f"give others with {WORDS_HINT}"
            )
        how = "all tokens of the words, summed" if twice else "the first token of each word"
        LOG.info("%s scores labels by %s: %s", self.name, how, [self.tokens.said(label) for label in labels])
        self._labels[classes] = labels
        return labels

    # ------------------------------------------------------------------------------------ writing, proposing

    def answer(self, queries: Sequence[Query], budget: Budget) -> Generator[tuple[int, OracleAnswer], None, None]:
        scored: dict[tuple[str, ...], list[int]] = {}
        texts, others = list[tuple[int, TextQuery]](), list[int]()
        for k, query in enumerate(queries):
            if isinstance(query, ScoreQuery):
                scored.setdefault(query.classes, []).append(k)
            elif isinstance(query, TextQuery) and not self.masked:
                texts.append((k, query))
            else:
                others.append(k)
        for position, answer in super().answer([queries[k] for k in others], budget):
            yield others[position], answer
        for some in scored.values():
            for group in self._with_beginnings(queries, some):
                for position, answer in super().answer([queries[k] for k in group], budget):
                    yield group[position], answer
        for batch in self._alike(texts):
            with budget.reserved(calls=len(batch)):
                written = write(self.model, self.tokens, [query for _, query in batch], self._limit)
            yield from zip([k for k, _ in batch], written, strict=True)

    def _with_beginnings(self, queries: Sequence[Query], indices: Sequence[int]) -> Iterator[list[int]]:
        """Yield ``indices`` of queries about the same classes in groups; what a group begins with is read by then."""
        some = [query for k in indices if isinstance(query := queries[k], ScoreQuery)]
        if self._reader is None or len(some) < 2:
            yield list(indices)
            return
        more = max(map(len, self._label_ids(some[0].classes))) - 1
        rows = [self._row(query, more) for query in some]
        prompts = [_prompt_key(query) for query in some]
        tokens = [_tokens(row, prompt) for row, prompt in zip(rows, prompts, strict=True)]
        keys = [prompts, [query.item.content_id() for query in some]]
        if (plan := choose(tokens, keys)) is None or not self._can_share:
            yield list(indices)
            return
        try:
            for shared in shared_rows(self._reader, rows, self._vectors, *plan, self.rows):
                self._shared = shared, {id(some[k]): number for number, k in enumerate(shared.members)}
                yield [indices[k] for k in shared.members]
        finally:
            self._shared = None

    def _alike(self, texts: Sequence[tuple[int, TextQuery]]) -> Iterator[list[tuple[int, TextQuery]]]:
        """Yield batches of texts of like length that end by the same rules."""
        groups: dict[tuple[Any, ...], list[tuple[int, TextQuery]]] = {}
        for pair in texts:
            groups.setdefault((pair[1].max_tokens, pair[1].temperature, pair[1].stop), []).append(pair)
        for group in groups.values():
            group.sort(key=lambda pair: len(pair[1].text))
            for start in range(0, len(group), self.rows):
                yield group[start : start + self.rows]

    @torch.no_grad()
    def other(self, query: Query) -> OracleAnswer:
        """Return the likeliest whole words: at a mask between the two texts, or after ``before`` alone.

        The latter is for a causal model, which cannot see ahead.
        """
        if not isinstance(query, ProposalQuery):
            return super().other(query)
        row: Row = [*self.tokens.first, *self.tokens.start(query.before.rstrip(" "))]
        if self.masked:
            behind = query.after.strip(" ")
            row += [*self._mask, *(self.tokens.following(f" {behind}") if behind else []), *self._last]
        row = row[-self._limit :] or [*self._empty]
        [[row_scores]] = self._log_probabilities([self._vectors(row)], [[self._answer_position(row)]])
        best = row_scores.topk(min(len(row_scores), PROPOSED * query.count)).indices.tolist()
        starts = not query.before.strip()
        found_words = (self.tokens.word(number, starts=starts) for number in best)
        words = dict.fromkeys(word for word in found_words if len(word) > 1)
        return OracleAnswer(tokens=tuple(words)[: query.count])


def _without_marks(text: str) -> str:
    return text.replace(SOFT, "").replace(MASK, "")


def _prompt_key(query: ScoreQuery) -> str:
    return json.dumps(query.described, sort_keys=True)


def _tokens(row: Row, prompt: str) -> list[Hashable]:
    """Return the tokens of ``row`` so that equal ones are equal: the vectors of the soft ``prompt`` by their place."""
    return [part if isinstance(part, int) else (prompt, k) for k, part in enumerate(row)]


def load(form: PromptTemplate, rest: str, options: OracleOptions, device: str, precision: str) -> LanguageModel:
    """Load the oracle.

    Raises:
        BackboneError: ``rest`` (a folder or a hub name) is not available or is no language model.
    """
    return from_pretrained(f"local:{rest}", rest, form, options, device, precision)


def from_pretrained(
    name: str, source: str, form: PromptTemplate, options: OracleOptions, device: str, precision: str
) -> LanguageModel:
    """Return the model in ``source``, a folder or hub name, as the oracle ``name``."""
    model, tokenizer, masked = load_pretrained(source, pick_dtype(precision), pick_device(device))
    backend = LanguageModel(name, form, model, tokenizer, masked=masked)
    backend.rows = options.rows
    return backend
