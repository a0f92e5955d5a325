"""The oracle: candidates and examples in, scores out; with a cache, a budget and a ledger for every backend."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from promptfed.blackbox.oracles.base import Backend, SoftSpace
from promptfed.blackbox.oracles.budget import Budget, Reservation
from promptfed.blackbox.oracles.cache import AnswerCache
from promptfed.blackbox.oracles.ledger import FILE, Account, OracleLedger
from promptfed.blackbox.oracles.query import (
    Candidate,
    OracleAnswer,
    ProposalQuery,
    Query,
    ScoreQuery,
    TextQuery,
    key_of,
)
from promptfed.blackbox.oracles.spent import recover_spent
from promptfed.blackbox.oracles.tally import Tally
from promptfed.errors import ConfigError
from promptfed.examples.base import Item, QuestionItem
from promptfed.frozen_model import FrozenModel, Kind
from promptfed.prompt_template import PromptTemplate
from promptfed.types import Split
from promptfed.usage import Usage


class Oracle(FrozenModel):
    """Front of ``backend`` that never asks the same question twice.

    The way of a request: cache, budget, backend, then cache and ledger. Answers are stored as soon as the backend
    yields them, so an interrupted or exhausted run loses none that it has paid for.
    """

    kind: ClassVar[Kind] = "oracle"
    has_gradients: ClassVar[bool] = False

    def __init__(
        self,
        backend: Backend,
        *,
        cache: AnswerCache | None = None,
        budget: Budget | None = None,
        ledger: OracleLedger | None = None,
        tally: Tally | None = None,
    ) -> None:
        self.backend = backend
        self.cache = AnswerCache(None) if cache is None else cache
        self.budget = Budget() if budget is None else budget
        self.ledger = OracleLedger() if ledger is None else ledger
        self.tally = Tally() if tally is None else tally
        self._used = Usage()
        self._account = Account()
        self.budget.on_reserved = lambda reservation: self.ledger.open(reservation)
        self.budget.on_settled = self._settled

    def __repr__(self) -> str:
        return f"<oracle {self.name}: {self.usage().oracle_calls} calls>"

    @property
    def name(self) -> str:
        return self.backend.name

    @property
    def fingerprint(self) -> str:
        return self.backend.fingerprint

    @property
    def form(self) -> PromptTemplate:
        return self.backend.form

    @property
    def abilities(self) -> frozenset[str]:
        return frozenset(self.backend.abilities)

    @property
    def is_paid(self) -> bool:
        return self.backend.paid

    @property
    def soft(self) -> SoftSpace:
        """Return the space of soft prompts.

        Raises:
            ConfigError: The oracle has no soft prompts.
        """
        self.check_offers({"soft prompts"}, "a soft prompt")
        assert self.backend.soft is not None
        return self.backend.soft

    def check_offers(self, needed: Iterable[str], what: str) -> None:
        """Check that the oracle has the abilities that ``what`` needs.

        Raises:
            ConfigError: One is missing.
        """
        lacking = sorted(set(needed) - self.abilities)
        if lacking:
            raise ConfigError(
                f"{what} needs an oracle with {' and '.join(lacking)}; '{self.name}' offers "
                f"{', '.join(sorted(self.abilities)) or 'scores only'} (promptfed list oracles shows what others do)"
            )

    # ------------------------------------------------------------------------------------------------- asking

    def template_scores(self, template: str, split: Split, classes: Sequence[str]) -> Tensor:
        """Return the scores of a hand-written prompt, which is a candidate like any other here."""
        return self.score([Candidate(template)], split.items, classes)[0]

    def scores_of_templates(self, templates: Sequence[str], split: Split, classes: Sequence[str]) -> Tensor:
        """Return what ``template_scores`` does, from one request, which a model in this process reads in batches."""
        return self.score([Candidate(template) for template in templates], split.items, classes)

    def score(self, candidates: Sequence[Candidate], items: Sequence[Item], classes: Sequence[str]) -> Tensor:
        """Return scores ``(candidates, items, classes)`` float32: the fit of each class to each example by prompt.

        A score is NaN where there was no answer (``promptfed.scores``). Questions with free answers are answered
        instead, and scored 1 for the class "right" or 1 for "wrong".
        """
        if items and all(isinstance(item, QuestionItem) for item in items):
            return self._score_answers(candidates, items, classes)  # type: ignore[arg-type]
        for candidate in candidates:
            self.check_offers(candidate.needs(), "this prompt")
        names = tuple(classes)
        queries = []
        for candidate in candidates:
            description = candidate.described()
            for row, item in enumerate(items):
                prompt = candidate.on(row)
                described = description if prompt is candidate else prompt.described()
                queries.append(ScoreQuery(prompt, item, names, described))
        answers = self.ask(queries)
        nothing = (float("nan"),) * len(names)
        values = [nothing if answer.says_nothing else answer.scores for answer in answers]
        return torch.tensor(values, dtype=torch.float32).reshape(len(candidates), len(items), len(names))

    def generate(
        self,
        texts: Sequence[str],
        *,
        max_tokens: int,
        temperature: float = 0.0,
        sample: int = 0,
        stop: Sequence[str] = (),
    ) -> list[str]:
        """Return the black box's continuation of each text (without the text itself)."""
        self.check_offers({"generation"}, "writing text")
        queries = [TextQuery(text, max_tokens, temperature, sample, tuple(stop)) for text in texts]
        return [answer.text for answer in self.ask(queries)]

    def propose(self, before: str, after: str, count: int) -> list[str]:
        """Return at most ``count`` words that fit between two texts, best first."""
        self.check_offers({"token proposals"}, "proposing words")
        [answer] = self.ask([ProposalQuery(before, after, count)])
        return list(answer.tokens)

    def ask(self, queries: Sequence[Query]) -> list[OracleAnswer]:
        """Return the answers in order; answers that arrive before an error are kept.

        Raises:
            BudgetExhausted: The budget does not allow all of them.
            OracleError: The black box does not answer, or too many answers are useless.
        """
        self.backend.prepare(queries, self.cache, self.budget)
        keys = [key_of(self.backend.fingerprint_of(query), query) for query in queries]
        answers = {key: answer for key, answer in self.cache.get(keys).items() if not answer.says_nothing}
        answers |= self.tally.known(keys)
        queries_by_key = {key: query for key, query in zip(keys, queries, strict=True) if key not in answers}
        self._note(Usage(oracle_queries=len(keys), oracle_cache_hits=len(keys) - len(queries_by_key)))
        if queries_by_key:
            self._ask(queries_by_key, answers)
        return [answers[key] for key in keys]

    def _ask(self, queries: dict[str, Query], results: dict[str, OracleAnswer]) -> None:
        """Put the answers to ``queries`` into ``results`` and the cache, those at once that were paid for."""
        names, fresh = list(queries), dict[str, OracleAnswer]()

        def keep(position: int, answer: OracleAnswer) -> None:
            results[names[position]] = answer
            self._note(Usage(oracle_unanswered=int(answer.says_nothing)))
            if not answer.says_nothing:
                fresh[names[position]] = answer
            self.tally.add(names[position], queries[names[position]], answer)
            if len(fresh) >= (1 if self.backend.paid else 64):
                self._keep(fresh)

        answers = self.backend.answer(list(queries.values()), self.budget)
        try:
            for entry in answers:
                keep(*entry)
        except KeyboardInterrupt as stop:
            # A server may still be answering, and its answers are paid for.
            with suppress(KeyboardInterrupt, StopIteration):
                keep(*answers.throw(stop))
                for entry in answers:
                    keep(*entry)
            raise
        finally:
            answers.close()  # requests under way end before their cost is read
            self._keep(fresh)

    def _keep(self, fresh: dict[str, OracleAnswer]) -> None:
        self.cache.put(fresh)
        floored = sum(answer.floored for answer in fresh.values())
        if floored:
            self._note(Usage(labels_floored=floored))
        fresh.clear()

    def _score_answers(
        self, candidates: Sequence[Candidate], items: Sequence[QuestionItem], classes: Sequence[str]
    ) -> Tensor:
        for candidate in candidates:
            if candidate.needs() - {"text prompts"}:
                raise ConfigError("questions with free answers take text prompts only: use a method that finds those")
        texts = [self.form.render(candidate.text, item.text) for candidate in candidates for item in items]
        replies = self.generate(texts, max_tokens=self.form.answer_tokens, stop=self.form.stop)
        # A question without an answer counts as a wrong one.
        right = [item.is_answered(reply) for reply, item in zip(replies, [*items] * len(candidates), strict=True)]
        hit = torch.tensor(right, dtype=torch.float32).reshape(len(candidates), len(items))
        return torch.stack([hit if name == "right" else 1 - hit for name in classes], -1)

    # ------------------------------------------------------------------------------------------- bookkeeping

    @contextmanager
    def account(self, stage: str | None = None, round: int | None = None, client: int | None = None) -> Iterator[None]:
        """Record usage inside the block for this stage, round and client; None keeps the outer one."""
        fields = {"stage": stage, "round": round, "client": client}
        outer = self._account
        self._account = replace(outer, **{name: value for name, value in fields.items() if value is not None})  # type: ignore[arg-type]
        try:
            yield
        finally:
            self._account = outer

    def usage(self) -> Usage:
        return self._used

    def keep_account_in(self, run: Path) -> None:
        self.keep_in(OracleLedger(run / FILE))

    def keep_in(self, ledger: OracleLedger) -> None:
        """Continue a run's own ledger: its usage already counts against the budget."""
        self.ledger = ledger
        ledger.reclaim()
        self.budget.spent = ledger.total()

    def _note(self, usage: Usage) -> None:
        self._used += usage
        self.ledger.add(self._account, usage)

    def _settled(self, reservation: Reservation, cost: Usage) -> None:
        self._used += cost
        self.ledger.settle(self._account, reservation, cost)

    def recover_account(
        self, events: Iterable[Mapping[str, Any]] | None, *, has_checkpoints: bool, say: Callable[[str], None]
    ) -> None:
        recover_spent(self.ledger, events, has_checkpoints=has_checkpoints, say=say)
        self.budget.spent = self.ledger.total()

    def spent(self) -> Usage:
        return self.ledger.total()

    def stop_when(self, should_stop: Callable[[], bool]) -> None:
        self.backend.should_stop = should_stop

    def check_answers(self) -> None:
        self.tally.check()

    def unanswered(self) -> dict[str, Any]:
        return self.tally.recorded()

    def describe(self) -> dict[str, Any]:
        return {"oracle": {"name": self.name, "fingerprint": self.fingerprint}}

    def verify_frozen(self) -> None:
        self.backend.verify_frozen()

    def close(self) -> None:
        self.backend.close()
