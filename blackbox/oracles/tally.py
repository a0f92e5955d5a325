"""Count of a black box's useless answers: named, and an end to the run when they are too many."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable
from typing import Any

from promptfed.blackbox.oracles.query import OracleAnswer, ProposalQuery, Query, ScoreQuery, TextQuery
from promptfed.errors import OracleError
from promptfed.examples.base import TextItem
from promptfed.printable import LONGEST, printable

log = logging.getLogger(__name__)
SHOWN = 60
"""Characters of a text in messages."""
NAMED = 20
"""Most texts in the record."""
FEWEST_ANSWERS, FEWEST_TEXTS = 200, 40
"""The shares are of at least so many, so that a few answers at the start do not end a run."""


class Tally:
    """Count of the answers requested in this process, by outcome.

    A useless answer is remembered in this process only, never on disk: after a change of the server's settings the
    question may be answered. Examples that the black box refuses (``left_out``) count by the example, however many
    prompts were tried on it; the other answers one by one.
    """

    def __init__(self, most_unanswered: float = 0.1, most_left_out: float = 0.25) -> None:
        self.most_unanswered, self.most_left_out = most_unanswered, most_left_out
        self.answers = self.unanswered = 0
        self.left_out: dict[str, tuple[str, str]] = {}
        """Identity of an example -> (name, reason)."""
        self._examples: set[str] = set()
        self._reasons: Counter[str] = Counter()
        self._useless: dict[str, OracleAnswer] = {}

    def known(self, keys: Iterable[str]) -> dict[str, OracleAnswer]:
        """Return the useless answers to ``keys``."""
        return {key: self._useless[key] for key in keys if key in self._useless}

    def add(self, key: str, query: Query, answer: OracleAnswer) -> None:
        """Count ``answer`` to ``query``.

        Raises:
            OracleError: Too many answers are useless, or too many examples are refused.
        """
        example, why = _identity(query), printable(answer.unanswered, LONGEST)
        self._examples.add(example)
        if answer.says_nothing:
            self._useless[key] = answer
        if answer.left_out:
            if example not in self.left_out:
                self.left_out[example] = _name(query), why
                if len(self.left_out) <= NAMED:
                    log.warning("left out: '%s': %s", *self.left_out[example])
        else:
            self.answers += 1
            if answer.says_nothing:
                self.unanswered += 1
                self._reasons[why or "no label among what was reported"] += 1
                if self.unanswered <= NAMED:
                    log.warning("not answered: '%s': %s", _name(query), why)
        self.check(FEWEST_ANSWERS, FEWEST_TEXTS)

    def check(self, fewest_answers: int = 0, fewest_texts: int = 0) -> None:
        """Raise OracleError if the shares are too large: of all answers, or of a fixed number if there were fewer."""
        answers, texts = max(self.answers, fewest_answers), max(len(self._examples), fewest_texts)
        if self.unanswered > self.most_unanswered * answers:
            reasons = "; ".join(f"{count} times: {why}" for why, count in self._reasons.most_common(3))
            raise OracleError(
                f"{self.unanswered} of {self.answers} answers say nothing of use, more than the share of "
                f"{self.most_unanswered:g} that --set oracle.most_unanswered allows ({reasons}): turn the model's "
                "thinking off, allow more tokens (--set oracle.choice_tokens=500), or use another template or other "
                "label words (--set task.template, task.words)"
            )
        if len(self.left_out) > self.most_left_out * texts:
            name, why = next(iter(self.left_out.values()))
            raise OracleError(
                f"{len(self.left_out)} of {len(self._examples)} examples are refused, more than the share of "
                f"{self.most_left_out:g} that --set oracle.most_left_out allows (such as '{name}': {why}): leave "
                "these examples out of the data, shorten them, or ask another model"
            )

    def recorded(self) -> dict[str, Any]:
        """Return for metrics.json the unanswered questions of this process, and the examples left out."""
        record: dict[str, Any] = {}
        if self.unanswered:
            record["unanswered"] = {
                "answers": self.unanswered,
                "of": self.answers,
                "why": dict(self._reasons.most_common(5)),
            }
        if self.left_out:
            examples = [{"example": name, "why": why} for name, why in list(self.left_out.values())[:NAMED]]
            record["left_out"] = {"examples": len(self.left_out), "of": len(self._examples), "named": examples}
        return record


def _identity(query: Query) -> str:
    if isinstance(query, ScoreQuery):
        return query.item.content_id()
    return query.text if isinstance(query, TextQuery) else f"{query.before} ___ {query.after}"


def _name(query: Query) -> str:
    if isinstance(query, ProposalQuery):
        return printable(f"{query.before} ___ {query.after}", SHOWN)
    text = query.item.text if isinstance(query, ScoreQuery) and isinstance(query.item, TextItem) else ""
    if isinstance(query, TextQuery):
        text = query.text[-SHOWN:]
    return printable(text or query.item.name, SHOWN)  # type: ignore[union-attr]
