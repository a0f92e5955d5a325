"""The oracle: candidates and examples in, scores out; cached, budgeted and written down, whatever stands behind it."""

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
from promptfed.blackbox.oracles.exact_match import is_right
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
    """Asks ``backend``, but never the same question twice: request -> cache -> budget -> backend -> cache and ledger.

    What a backend yields is kept at once, so an interrupted or exhausted run has lost nothing that it paid for.
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
        """Raises ConfigError for an oracle without soft prompts."""
        self.check_offers({"soft prompts"}, "a soft prompt")
        assert self.backend.soft is not None
        return self.backend.soft

    def check_offers(self, needed: Iterable[str], what: str) -> None:
        """Raises ConfigError if the oracle lacks one of the abilities that ``what`` needs."""
        lacking = sorted(set(needed) - self.abilities)
        if lacking:
            raise ConfigError(
                f"{what} needs an oracle with {' and '.join(lacking)}; '{self.name}' offers "
                f"{', '.join(sorted(self.abilities)) or 'scores only'} (promptfed list oracles shows what others do)"
            )

    # ------------------------------------------------------------------------------------------------- asking

    def template_scores(self, template: str, split: Split, classes: Sequence[str]) -> Tensor:
        """To a black box a hand-written prompt is a candidate like any other."""
        return self.score([Candidate(template)], split.items, classes)[0]

    def score(self, candidates: Sequence[Candidate], items: Sequence[Item], classes: Sequence[str]) -> Tensor:
        """Scores ``(candidates, items, classes)`` float32: how well each class fits each example under each prompt; NaN
        where there was no answer (``promptfed.scores``).

        Questions with free answers are answered instead, and scored 1 for the class "right" or 1 for "wrong".
        """
        if items and all(isinstance(item, QuestionItem) for item in items):
            return self._score_answers(candidates, items, classes)  # type: ignore[arg-type]
        for candidate in candidates:
            self.check_offers(candidate.needs(), "this prompt")
        names = tuple(classes)
        queries = []
        for candidate in candidates:
            shared = candidate.described()
            for row, item in enumerate(items):
                prompt = candidate.on(row)
                described = shared if prompt is candidate else prompt.described()
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
        """How the black box continues each text (without the text itself). ``sample`` numbers repeated draws."""
        self.check_offers({"generation"}, "writing text")
        queries = [TextQuery(text, max_tokens, temperature, sample, tuple(stop)) for text in texts]
        return [answer.text for answer in self.ask(queries)]

    def propose(self, before: str, after: str, count: int) -> list[str]:
        """At most ``count`` words that fit between two texts, best first."""
        self.check_offers({"token proposals"}, "proposing words")
        [answer] = self.ask([ProposalQuery(before, after, count)])
        return list(answer.tokens)

    def ask(self, queries: Sequence[Query]) -> list[OracleAnswer]:
        """The answers in order. Raises BudgetExhausted or OracleError, also when too many say nothing of use; what came
        back until then is kept."""
        self.backend.prepare(queries, self.cache, self.budget)
        keys = [key_of(self.backend.fingerprint_of(query), query) for query in queries]
        known = {key: answer for key, answer in self.cache.get(keys).items() if not answer.says_nothing}
        known |= self.tally.known(keys)
        missing = {key: query for key, query in zip(keys, queries, strict=True) if key not in known}
        self._note(Usage(oracle_queries=len(keys), oracle_cache_hits=len(keys) - len(missing)))
        if missing:
            self._ask(missing, known)
        return [known[key] for key in keys]

    def _ask(self, missing: dict[str, Query], known: dict[str, OracleAnswer]) -> None:
        """Put the answers to ``missing`` into ``known`` and the cache, those at once that were paid for."""
        names, fresh = list(missing), dict[str, OracleAnswer]()

        def keep(position: int, answer: OracleAnswer) -> None:
            known[names[position]] = answer
            self._note(Usage(oracle_unanswered=int(answer.says_nothing)))
            if not answer.says_nothing:
                fresh[names[position]] = answer
            self.tally.add(names[position], missing[names[position]], answer)
            if len(fresh) >= (1 if self.backend.paid else 64):
                self._keep(fresh)

        answers = self.backend.answer(list(missing.values()), self.budget)
        try:
            for found in answers:
                keep(*found)
        except KeyboardInterrupt as stop:
            # A server may still be answering: what it was asked is paid for.
            with suppress(KeyboardInterrupt, StopIteration):
                keep(*answers.throw(stop))
                for found in answers:
                    keep(*found)
            raise
        finally:
            answers.close()  # requests under way are over before anybody looks at what they cost
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
        said = self.generate(texts, max_tokens=self.form.answer_tokens, stop=self.form.stop)
        # A question without an answer counts as a wrong one.
        right = [is_right(answer, item.answer) for answer, item in zip(said, [*items] * len(candidates), strict=True)]
        hit = torch.tensor(right, dtype=torch.float32).reshape(len(candidates), len(items))
        return torch.stack([hit if name == "right" else 1 - hit for name in classes], -1)

    # ------------------------------------------------------------------------------------------- bookkeeping

    @contextmanager
    def account(self, stage: str | None = None, round: int | None = None, client: int | None = None) -> Iterator[None]:
        """Write what is used inside the block down for this stage, round and client; None keeps the outer one."""
        given = {"stage": stage, "round": round, "client": client}
        before = self._account
        self._account = replace(before, **{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]
        try:
            yield
        finally:
            self._account = before

    def usage(self) -> Usage:
        return self._used

    def keep_account_in(self, run: Path) -> None:
        self.keep_in(OracleLedger(run / FILE))

    def keep_in(self, ledger: OracleLedger) -> None:
        """Go on with a run's own ledger: what it has already counts against the budget."""
        self.ledger = ledger
        ledger.reclaim()
        self.budget.spent = ledger.total()

    def _note(self, usage: Usage) -> None:
        self._used += usage
        self.ledger.add(self._account, usage)

    def _settled(self, reservation: Reservation, used: Usage) -> None:
        self._used += used
        self.ledger.settle(self._account, reservation, used)

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
