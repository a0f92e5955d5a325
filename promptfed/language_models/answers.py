"""Answers in free text: how likely a model finds the right one, and what it writes itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from promptfed.errors import ConfigError
from promptfed.examples.base import ANSWER_CLASSES, AnswerItem, Item, PhraseQuestion, QuestionItem
from promptfed.examples.token_overlap import is_same, token_f1
from promptfed.language_models.answer_rows import AnswerRow, AnswerWriter
from promptfed.language_models.insert import NO_INSERT, Insert
from promptfed.language_models.pretrained import Family
from promptfed.language_models.shared_prefix import Beginnings
from promptfed.language_models.text_rows import RowWriter
from promptfed.prompt_template import PromptTemplate
from promptfed.scores import answer_scores

LOGITS_AT_ONCE = 2**24
"""Numbers of the word head's output that are held at once."""
ROWS_AT_ONCE = 32
"""Answers that are written side by side."""


class Reads(Protocol):
    """What is needed of a language model."""

    writer: RowWriter
    tokenizer: Any
    longest: int
    family: Family

    @property
    def name(self) -> str: ...

    @property
    def form(self) -> PromptTemplate: ...

    def hidden(
        self,
        rows: Sequence[Sequence[int]],
        insert: Insert = NO_INSERT,
        at: Sequence[Sequence[int]] | None = None,
        answers: Sequence[Sequence[int]] | None = None,
    ) -> Tensor: ...

    @property
    def goes_on(self) -> bool: ...

    def read_on(
        self, rows: Sequence[Sequence[int]], insert: Insert = NO_INSERT, behind: Beginnings | None = None
    ) -> tuple[Tensor, Beginnings]: ...

    def word_logits(self, hidden: Tensor, ids: Sequence[int] | None) -> Tensor: ...


class Answers:
    """Reads and writes answers with one model.

    Args:
        model: A causal model, or an encoder-decoder.

    Raises:
        ConfigError: The model writes no texts.
    """

    def __init__(self, model: Reads) -> None:
        if model.family not in ("causal", "encoder-decoder"):
            raise ConfigError(
                f"'{model.name}' is {'an' if model.family == 'encoder' else 'a'} {model.family} model, which writes no "
                "answers: use a causal model, such as --backbone lm:gemma or lm:FOLDER"
            )
        self.model, self.rows = model, AnswerWriter(model.writer, model.tokenizer)

    @property
    def form(self) -> PromptTemplate:
        """How questions are put, and where a written answer ends."""
        return self.model.form

    def likelihood(
        self, insert: Insert, items: Sequence[Item], prompt: str = "", reserve: int = 0
    ) -> tuple[Tensor, Tensor]:
        """Return how likely the right answers are; gradients flow to ``insert``.

        The word head is asked for positions of answers only, some at a time.

        Args:
            insert: What is read beside the questions.
            items: Questions with answers.
            prompt: A hand-written prompt.
            reserve: Tokens of the insert.

        Returns:
            The mean of -log of the probabilities of each answer's tokens ``(items,)``, its end marker included; and
            ``(items,)`` bool, whether each of them is the most likely one: then the model writes just this answer.
        """
        rows = [self.rows.row(item, prompt, reserve) for item in items]
        states = self._answer_states(rows, insert)
        targets = torch.tensor([token for row in rows for token in row.answer], device=states.device)
        losses, hits = token_losses(states, targets, lambda some: self.model.word_logits(some, None))
        sizes = [len(row.answer) for row in rows]
        means = torch.stack([part.mean() for part in losses.split(sizes)])
        return means, torch.stack([part.all() for part in hits.split(sizes)])

    def _answer_states(self, rows: Sequence[AnswerRow], insert: Insert) -> Tensor:
        """Return the states ``(tokens of all answers, width)`` that predict the tokens of the answers."""
        longest = max(len(row.answer) for row in rows)
        answers = None
        if self.model.family == "encoder-decoder":
            ids, answers = [row.question for row in rows], [row.answer[:-1] for row in rows]
            starts = [0] * len(rows)
        else:
            ids = [(*row.question, *row.answer[:-1]) for row in rows]
            starts = [len(row.question) - 1 for row in rows]
        at = [
            [start + min(step, len(row.answer) - 1) for step in range(longest)]
            for start, row in zip(starts, rows, strict=True)
        ]
        states = self.model.hidden(ids, insert, at, answers)
        return torch.cat([states[k, : len(row.answer)] for k, row in enumerate(rows)])

    @torch.no_grad()
    def write(self, insert: Insert, items: Sequence[Item], prompt: str = "", reserve: int = 0) -> list[str]:
        """Return what the model answers, always by its most likely next token.

        An answer ends at an end marker, at one of the template's ``stop`` texts, or after ``answer_tokens``.
        """
        texts: list[str] = []
        for start in range(0, len(items), ROWS_AT_ONCE):
            texts += self._write_batch(insert, items[start : start + ROWS_AT_ONCE], prompt, reserve)
        return texts

    def _write_batch(self, insert: Insert, items: Sequence[Item], prompt: str, reserve: int) -> list[str]:
        questions = [self.rows.row(item, prompt, reserve).question for item in items]
        lines: list[list[int]] = [[] for _ in items]
        waiting, ends = list(range(len(items))), self.rows.ends
        beginnings: Beginnings | None = None
        for step in range(self.form.answer_tokens):
            if self.model.goes_on:
                rows = [questions[k] if step == 0 else lines[k][-1:] for k in waiting]
                states, beginnings = self.model.read_on(rows, insert, beginnings)
            else:
                states = self._last_states([questions[k] for k in waiting], [lines[k] for k in waiting], insert)
            following = self.model.word_logits(states, None).argmax(-1).tolist()
            places = []
            for place, (k, token) in enumerate(zip(waiting, following, strict=True)):
                if token in ends:
                    continue
                lines[k].append(token)
                has_room = len(questions[k]) + len(lines[k]) + reserve <= self.model.longest
                if has_room and not any(stop in self._text(lines[k]) for stop in self.form.stop):
                    places.append(place)
            if not places:
                break
            if beginnings is not None and (step == 0 or len(places) < len(waiting)):  # questions are of several lengths
                beginnings = beginnings.select(places)
            waiting = [waiting[place] for place in places]
        return [self._until_stop(self._text(line)) for line in lines]

    def _last_states(
        self, questions: Sequence[Sequence[int]], lines: Sequence[Sequence[int]], insert: Insert
    ) -> Tensor:
        """Return the states ``(rows, width)`` behind questions and lines of answers, read from the start."""
        if self.model.family == "encoder-decoder":
            return self.model.hidden(questions, insert, [[len(line)] for line in lines], lines)[:, 0]
        rows = [[*question, *line] for question, line in zip(questions, lines, strict=True)]
        return self.model.hidden(rows, insert, [[len(row) - 1] for row in rows])[:, 0]

    def _text(self, ids: Sequence[int]) -> str:
        return self.model.writer.tokens.said(ids)

    def _until_stop(self, text: str) -> str:
        for stop in self.form.stop:
            text = text.partition(stop)[0]
        return text.strip()

    @torch.no_grad()
    def scores(
        self, insert: Insert, items: Sequence[Item], classes: Sequence[str], prompt: str = "", reserve: int = 0
    ) -> Tensor:
        """Return the scores ``(items, 4)`` of ``promptfed.scores.answer_scores``.

        Answers are written for those items that say so, unless it is known already that the right one would be: then
        its F1 is 1, and it is 0 for the other items, which nobody asks for it.

        Raises:
            ConfigError: ``classes`` are others than wrong and right.
        """
        check_classes(classes)
        if not len(items):
            return torch.zeros(0, 4)
        losses, hits = self.likelihood(insert, items, prompt, reserve)
        right, f1 = hits.cpu(), hits.cpu().double()
        unknown = [k for k, item in enumerate(items) if not right[k] and _is_written(item)]
        replies = self.write(insert, [items[k] for k in unknown], prompt, reserve)
        for k, reply in zip(unknown, replies, strict=True):
            item = items[k]
            assert isinstance(item, QuestionItem), "or there would be no likelihood"
            right[k] = item.is_answered(reply) if _has_rule(item) else is_same(reply, item.answer)
            f1[k] = token_f1(reply, item.answer)
        return answer_scores(right, f1, -losses.cpu().double())


def _is_written(item: Item) -> bool:
    return not isinstance(item, AnswerItem) or item.is_written


def _has_rule(item: QuestionItem) -> bool:
    """Return whether an answer is right by a rule of its own, and not if all of it is the same."""
    return isinstance(item, PhraseQuestion) or (isinstance(item, AnswerItem) and item.has_final)


def check_classes(classes: Sequence[str]) -> None:
    """Raise ConfigError unless ``classes`` are those of answers in free text."""
    if tuple(classes) != ANSWER_CLASSES:
        raise ConfigError(
            "head 'completion' learns to write answers, and these data have classes: use --set method.head=auto, or "
            "--task text-generation"
        )


def token_losses(
    states: Tensor, targets: Tensor, logits_of: Callable[[Tensor], Tensor], at_once: int = LOGITS_AT_ONCE
) -> tuple[Tensor, Tensor]:
    """Return -log of the probabilities of tokens, without ever holding the logits of all positions.

    Args:
        states: What the word head takes, ``(tokens, width)``.
        targets: The tokens, ``(tokens,)`` int64.
        logits_of: The frozen word head: states to logits ``(tokens, vocabulary)``.
        at_once: Logits that are held at once.

    Returns:
        ``(tokens,)`` with gradients to ``states``, and ``(tokens,)`` bool, whether each token is the most likely one.
    """
    losses, hits = _TokenLosses.apply(states, targets, logits_of, at_once)
    return losses, hits


class _TokenLosses(torch.autograd.Function):
    """A token's loss depends on its own state alone, so its slope is known as soon as the loss is."""

    @staticmethod
    def forward(
        ctx: Any, states: Tensor, targets: Tensor, logits_of: Callable[[Tensor], Tensor], at_once: int
    ) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            vocabulary = logits_of(states[:1]).shape[-1]
        losses, hits = [], []
        slopes: list[Tensor] = []
        for rows in torch.arange(len(states), device=states.device).split(max(1, at_once // vocabulary)):
            part = states[rows].detach().requires_grad_(ctx.needs_input_grad[0])
            with torch.set_grad_enabled(ctx.needs_input_grad[0]):
                logits = logits_of(part)
                loss = F.cross_entropy(logits, targets[rows], reduction="none")
                if ctx.needs_input_grad[0]:
                    slopes += torch.autograd.grad(loss.sum(), part)
            losses.append(loss.detach())
            hits.append(logits.argmax(-1) == targets[rows])
        if slopes:
            ctx.save_for_backward(torch.cat(slopes))
        is_hit = torch.cat(hits)
        ctx.mark_non_differentiable(is_hit)
        return torch.cat(losses), is_hit

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (slopes,) = ctx.saved_tensors
        return gradients[0][:, None] * slopes, None, None, None
