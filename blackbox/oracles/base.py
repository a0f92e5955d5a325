"""The interface of the models and servers behind an oracle."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from promptfed.blackbox.oracles.budget import Budget
from promptfed.blackbox.oracles.cache import AnswerCache
from promptfed.blackbox.oracles.query import OracleAbility, OracleAnswer, Query, ScoreQuery
from promptfed.errors import OracleError
from promptfed.examples.base import Item
from promptfed.prompt_template import PromptTemplate

DIGITS = 6
"""Decimals of a score; beyond them is floating-point noise of batching."""

STEP = 8
"""Batch sizes of local models, and their lengths in tokens, are multiples of it."""


@dataclass(frozen=True)
class SoftSpace:
    """Space of soft prompts: vectors of ``dim`` numbers.

    The model's own token embeddings have entries of standard deviation ``std`` (BBT scales its projection by it).
    ``words`` ``(n, dim)``: embeddings of common words, to start from; may be empty.
    """

    dim: int
    std: float
    words: Tensor


class Backend(ABC):
    """A black box.

    ``name`` is for people; ``fingerprint`` changes whenever the same question may have another answer (model, revision,
    scoring mode, template); ``paid`` says whether answers cost money.
    """

    name: str
    fingerprint: str
    abilities: frozenset[OracleAbility]
    soft: SoftSpace | None = None
    pixel_shape: tuple[int, int, int] | None = None
    form: PromptTemplate
    paid: ClassVar[bool] = False

    @abstractmethod
    def answer(self, queries: Sequence[Query], budget: Budget) -> Generator[tuple[int, OracleAnswer], None, None]:
        """Yield (position in ``queries``, answer) as answers arrive, in any order.

        Yielded answers are kept even if the rest fails. Every request is reserved with ``budget`` before it is made and
        settled after.

        Raises:
            BudgetExhausted: The budget does not allow the next request.
            OracleError: The black box does not answer.
        """

    def prepare(self, queries: Sequence[Query], cache: AnswerCache, budget: Budget) -> None:  # noqa: B027
        """Find out what is needed to tell ``queries`` apart from others, or take it from ``cache``.

        A server is probed here, at the first question, so that a run with all answers in the cache makes no request.
        """

    def fingerprint_of(self, query: Query) -> str:
        """Return ``fingerprint`` with the findings about such queries."""
        return self.fingerprint

    def pixels(self, items: Sequence[Item]) -> Tensor:
        """Return preprocessed images ``(items, *pixel_shape)``, as a client makes them to add a pixel prompt; no query.

        Only for black boxes with pixel prompts.
        """
        raise OracleError(f"oracle '{self.name}' has no pixel prompts, so nothing is added to its images")

    should_stop: Callable[[], bool] = staticmethod(lambda: False)
    """Whether the user asks to stop; checked while requests wait for a server."""

    def verify_frozen(self) -> None:  # noqa: B027 (a server is not ours to check)
        """Check that a model held in this process has not changed since loading.

        Raises:
            BackboneError: It has.
        """

    def leave_no_features(self) -> None:  # noqa: B027 (most write none)
        """Stop writing data about the examples to disk; existing data may be used."""

    def close(self) -> None:  # noqa: B027 (most hold nothing open)
        """Free connections and threads."""


class LocalBackend(Backend):
    """Model in this process, queried in batches of ``rows``; subclasses say how a batch is scored.

    Batches have sizes in steps of ``STEP``, the last one filled up, because matrix kernels round differently for
    different shapes: with scores rounded to ``DIGITS``, an answer hardly depends on what else was asked.
    """

    rows: int = 32

    @abstractmethod
    def scores(self, queries: Sequence[ScoreQuery]) -> Tensor:
        """Return scores ``(queries, classes)`` of one batch, whose queries all have the same classes."""

    def length(self, query: ScoreQuery) -> int:
        """Return the approximate number of tokens of the query: batches are made of queries of like length."""
        return 0

    def other(self, query: Query) -> OracleAnswer:
        """Return the answer to a query that is not a ScoreQuery."""
        raise OracleError(f"oracle '{self.name}' only scores; it cannot write or propose text")

    def answer(self, queries: Sequence[Query], budget: Budget) -> Generator[tuple[int, OracleAnswer], None, None]:
        groups: dict[tuple[str, ...], list[tuple[int, ScoreQuery]]] = {}
        for position, query in enumerate(queries):
            if isinstance(query, ScoreQuery):
                groups.setdefault(query.classes, []).append((position, query))
            else:
                with budget.reserved(calls=1):
                    answer = self.other(query)
                yield position, answer
        for group in groups.values():
            group.sort(key=lambda pair: self.length(pair[1]))
            for start in range(0, len(group), self.rows):
                batch = group[start : start + self.rows]
                padded = [query for _, query in batch] + [batch[-1][1]] * (-len(batch) % STEP)
                with budget.reserved(calls=len(batch)), torch.no_grad():
                    found_scores = self.scores(padded)[: len(batch)].double().cpu()
                for (position, _), row in zip(batch, found_scores.tolist(), strict=True):
                    if any(map(math.isnan, row)):
                        yield position, OracleAnswer(unanswered="its scores are not numbers (NaN)")
                        continue
                    yield position, OracleAnswer(scores=tuple(round(value, DIGITS) for value in row))
