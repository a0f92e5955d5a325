"""FedTextGrad: clients improve the text of a prompt by a language model's critique (Chen et al., ICLR 2025)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from promptfed.aggregators.base import Aggregator
from promptfed.blackbox.base import BlackBoxConfig, BlackBoxMethod, ClientOracle, least
from promptfed.blackbox.methods.fedtextgrad.merging import (
    EVEN_SUMMARY,
    SUMMARY,
    ConcatMerge,
    RankSelection,
    SummaryMerge,
    candidate_pool,
    instruction_of,
    mean_ranks,
    pool_of,
    tokens_for,
)
from promptfed.blackbox.oracles.query import Candidate
from promptfed.blackbox.text.quotation_filter import Quotations
from promptfed.blackbox.text.tensors import text_of, text_tensor
from promptfed.examples.base import QuestionItem, TextItem
from promptfed.method import METHODS, MethodConfig, Shape
from promptfed.prompt_state import PromptState
from promptfed.scores import NO_CLASS, predicted
from promptfed.types import Broadcast, ClientData, Split

CRITIQUE = "An assistant followed an instruction and made mistakes."
CRITIQUE_END = "Say in one or two sentences what the instruction should have told the assistant.\nCriticism:"
REWRITE = "Improve an instruction for an assistant."
REWRITE_END = "Write the improved instruction in one or two general sentences.\nImproved instruction:"
STOP = ("\n\n",)
LONGEST = 600
"""Characters of a private text that the critic is shown at most."""


class FedTextGradConfig(BlackBoxConfig):
    """FedTextGrad's options."""

    queries: int = Field(
        160, ge=4, description="queries of a client in a round: prompts on examples, and texts to be written"
    )
    steps: int = Field(2, ge=1, description="T, rewritings that a client tries in a round")
    merge: Literal["rank", "concatenate", "summary", "uid_summary"] = Field(
        "rank", description="rank asks no language model; the two summaries ask one at the server, once a round"
    )
    start: str | None = Field(None, description="the first prompt; by default the task's own ones (rank: all of them)")
    wrong_examples: int = Field(3, ge=1, description="mistakes that the critic is shown")
    critique_tokens: int = Field(80, ge=1, description="most tokens of a critique")
    most_characters: int = Field(400, ge=20, description="of a prompt that is sent")
    quoted_words: int = Field(
        6, ge=2, description="words in a row from a private text that make a sentence too private to be sent"
    )


@METHODS.register("fedtextgrad")
class FedTextGrad(BlackBoxMethod):
    """Clients improve the text of a prompt by a language model's critique ("textual gradient").

    A local step: the prompt answers a batch, a language model criticises it by some of the mistakes, and rewrites it by
    the critique. The new prompt is taken if its loss on the same batch is lower.

    merge ``rank``: a client scores the ``pool`` of texts that it receives (all of last round's, and the current prompt)
    on its validation and training examples, works on from its own best, and sends its new text and its ranks; the
    server takes the text with the best mean rank. The last round only ranks, so there are two rounds at least. The
    first pool are the task's hand-written prompts. Other merges join or summarise the clients' texts.

    Shared: ``text`` (bytes of UTF-8,), with rank also ``pool/NNN``. Sent up: ``text``, and ``ranks`` (pool,). Personal:
    nothing. Sentences that quote a private text (``Quotations``) never become part of a prompt. A text from the server
    is not filtered: what a client cut from it would tell the server what the client holds.

    The paper's merges are the other three (uniform information density did best); ranks are ours, and so are the
    acceptance by loss, the instructions to the language model, the filter and the cap. Critiques need a strong model,
    as the paper says; those of a 270M one are seldom useful, and then the prompt stays.
    """

    name: ClassVar[str] = "FedTextGrad"
    paper: ClassVar[str] = "Chen et al. 2025, ICLR, arXiv 2502.19980"
    trains: ClassVar[str] = "prompt text (bytes,)"
    keeps: ClassVar[str] = "texts"
    requires: ClassVar[frozenset[str]] = frozenset({"text prompts", "generation"})
    aggregators: ClassVar[tuple[str, ...]] = ("mean",)
    Config: ClassVar[type[MethodConfig]] = FedTextGradConfig
    last_round_differs: ClassVar[bool] = True
    config: FedTextGradConfig

    @property
    def ranks(self) -> bool:
        return self.config.merge == "rank"

    @property
    def rounds(self) -> int:
        return max(2, self.setup.rounds) if self.ranks else self.setup.rounds

    def init_shared(self) -> PromptState:
        texts = [self.config.start] if self.config.start is not None else list(dict.fromkeys(self.setup.templates))
        if self.ranks:
            return candidate_pool(texts)
        return PromptState({"text": text_tensor(next((text for text in texts if text), ""))})

    def uploads(self, client: int, sent: PromptState) -> Mapping[str, Shape]:
        ranks: dict[str, Shape] = {"ranks": (len(pool_of(sent)),)} if self.ranks else {}
        return {"text": (None,), **ranks}

    def server_side(self, aggregator: Aggregator) -> Aggregator:
        limit = self.config.most_characters
        if self.ranks:
            return RankSelection(limit)
        if self.config.merge == "concatenate":
            return ConcatMerge(limit)
        return SummaryMerge(self.oracle, SUMMARY if self.config.merge == "summary" else EVEN_SUMMARY, limit)

    def candidate(self, shared: PromptState, personal: PromptState) -> Candidate:
        return Candidate(text_of(shared["text"]))

    # --------------------------------------------------------------------------------------------- training

    def step_queries(self, data: ClientData) -> int:
        """Return the queries of one step, after the pool is ranked.

        A step is the prompt on a batch, a critique, a rewriting and the new prompt on the batch.
        """
        batch = self.batch_of(data)
        pool = len(pool_of(self.init_shared())) if self.ranks else 0

        def suffices(queries: int) -> bool:
            return queries - judged_queries(pool, queries // 2, data) >= 2 * batch + 2

        return least(max(4, 2 * batch + 2), suffices)

    def search(
        self, broadcast: Broadcast, data: ClientData, personal: PromptState, desk: ClientOracle
    ) -> tuple[PromptState, PromptState]:
        text, upload = text_of(broadcast.shared["text"]), {}
        is_last = self.ranks and broadcast.round >= self.rounds
        if self.ranks:
            pool = pool_of(broadcast.shared)
            losses = self._judged(pool, data, desk, desk.left if is_last else desk.left // 2)
            text = pool[int(losses.argmin())]
            upload["ranks"] = mean_ranks([losses.tolist()], [1]).float()
        for _ in range(0 if is_last else self.config.steps):
            rows = desk.batch()
            if desk.left < 2 * len(rows) + 2:
                break
            text = self._step(text, data, rows, desk)
        return PromptState({"text": text_tensor(text), **upload}), personal

    def _judged(self, pool: Sequence[str], data: ClientData, desk: ClientOracle, limit: int) -> np.ndarray:
        """Return the mean loss ``(pool,)`` of every text on the same examples, validation ones first.

        Texts beyond the ``limit`` of queries get the median of the others, so that they are neither chosen nor
        condemned.
        """
        examples = Split((*data.val.items, *data.train.items), torch.cat([data.val.labels, data.train.labels]))
        order = [desk.stream.permutation(len(part)) for part in (data.val, data.train)]
        row_order = torch.from_numpy(np.concatenate([order[0], len(data.val) + order[1]]))
        indices = list(range(len(pool)))
        if len(pool) > limit:
            indices = sorted(desk.stream.choice(len(pool), limit, replace=False).tolist())
        rows = row_order[: max(1, limit // len(indices))]
        scored = desk.losses([Candidate(pool[k]) for k in indices], rows, split=examples)
        losses = np.full(len(pool), np.median(scored) if np.isfinite(scored).any() else 0.0)
        losses[indices] = np.nan_to_num(scored, nan=np.inf)
        return np.where(np.isfinite(losses), losses, np.finfo(np.float32).max)

    def _step(self, text: str, data: ClientData, rows: Tensor, desk: ClientOracle) -> str:
        """Take one step of critique and rewriting; return ``text`` itself if nothing came of it."""
        scores, labels = desk.scores([Candidate(text)], rows)
        now = self.sample_losses(scores[0], labels).double().mean().item()
        answers = predicted(scores[0])
        desk.loss, desk.accuracy = now, (answers == labels).double().mean().item()
        wrong = ((answers != labels) & (answers != NO_CLASS)).nonzero().flatten().tolist()
        if not wrong:
            return text
        mistakes = [
            self._mistake(data.train, int(rows[k]), int(answers[k])) for k in wrong[: self.config.wrong_examples]
        ]
        instruction = f"Instruction: {text or 'there is none yet'}"
        critique = self._written(
            "\n".join([CRITIQUE, instruction, *mistakes, CRITIQUE_END]), self.config.critique_tokens, desk
        )
        critique = " ".join(critique.split())
        limit = self.config.most_characters
        reply = self._written(
            "\n".join([REWRITE, instruction, f"Criticism: {critique}", REWRITE_END]), tokens_for(limit), desk
        )
        safe = Quotations(private_texts(data), self.config.quoted_words).removed(instruction_of(reply, limit))
        better = instruction_of(safe, limit)
        if not better or better == text:
            return text
        loss = float(desk.losses([Candidate(better)], rows)[0])
        return better if loss < now else text

    def _written(self, request: str, tokens: int, desk: ClientOracle) -> str:
        desk.spend(1)
        [reply] = self.oracle.generate([request], max_tokens=tokens, stop=STOP)
        return reply.strip()

    def _mistake(self, split: Split, row: int, answer: int) -> str:
        """Format one example that went wrong for the critic."""
        item = split.items[row]
        text = " ".join(item.text.split())[:LONGEST] if isinstance(item, TextItem) else item.name
        if isinstance(item, QuestionItem):
            return f"Question: {text}\nRight answer: {' '.join(item.answer.split())}"
        word, classes = self.oracle.form.word, self.setup.classes
        return f"Text: {text}\nIt said: {word(classes[answer])}. Right is: {word(classes[int(split.labels[row])])}."


def judged_queries(pool: int, limit: int, data: ClientData) -> int:
    """Return the queries that ``_judged`` makes for ``pool`` texts with at most ``limit`` of them."""
    count = min(pool, limit)
    return count * min(max(1, limit // count), len(data.val) + len(data.train)) if count else 0


def private_texts(data: ClientData) -> list[str]:
    """Return all that a client must not quote: its texts, and the worked answers of its questions."""
    items = [item for split in (data.train, data.val, data.test) for item in split.items if isinstance(item, TextItem)]
    return [text for item in items for text in (item.text, getattr(item, "answer", "")) if text]
