"""A black box that is never asked: every answer is made up, and what it would have cost is counted.

A run on it asks as many questions as a real one as far as these do not depend on the answers. What is in the cache
already is answered from there, and costs nothing.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Generator, Sequence

from torch import Tensor

from promptfed.blackbox.oracles.base import Backend
from promptfed.blackbox.oracles.budget import Budget
from promptfed.blackbox.oracles.cache import AnswerCache, default_cache
from promptfed.blackbox.oracles.query import OracleAnswer, ProposalQuery, Query, ScoreQuery, key_of
from promptfed.blackbox.oracles.remote.base import Probed
from promptfed.blackbox.oracles.remote.probe import SYSTEM, Findings
from promptfed.examples.base import Item, TextItem
from promptfed.oracle_options import OracleOptions
from promptfed.usage import Usage

BYTES_A_TOKEN = 4
"""Of English; other scripts and rare words need fewer."""
FRAME = 64
"""Most tokens that a server puts around a chat."""
PROBES = 12
"""Most requests by which a server is looked at before the first question."""
MILLION = 1e6
WORDS = ("clear", "short", "plain", "useful", "kind", "exact", "simple", "good", "open", "warm", "true", "calm")
"""What is answered where words are asked for."""


class Rehearsal(Backend):
    """The double of ``backend``, which is asked nothing.

    Args:
        backend: The black box.
        options: Its options.
        seed: Other seeds give other answers.

    Attributes:
        most: What the questions may cost at most: a token is a byte, and a chat has a frame.
        known: Questions whose answers are in the cache.
    """

    def __init__(self, backend: Backend, options: OracleOptions, seed: int = 0) -> None:
        self.backend, self.options, self.seed = backend, options, seed
        self.name, self.fingerprint, self.form = backend.name, backend.fingerprint, backend.form
        self.abilities, self.soft, self.pixel_shape = backend.abilities, backend.soft, backend.pixel_shape
        self.most, self.known = Usage(), 0
        self._cache = default_cache() if options.cache else AnswerCache(None)
        self._probed: set[tuple[str, ...]] = set()
        self._findings: dict[tuple[str, ...], str] = {}

    @property
    def is_server(self) -> bool:
        """Whether what is asked goes to a server and has a price."""
        return self.backend.paid

    def pixels(self, items: Sequence[Item]) -> Tensor:
        return self.backend.pixels(items)

    def prepare(self, queries: Sequence[Query], cache: AnswerCache, budget: Budget) -> None:
        """Count the probe of a server that was not probed before; take what was found out from the cache."""
        if not isinstance(self.backend, Probed):
            return
        for words in dict.fromkeys(map(self.backend.words, queries)):
            if words in self._probed:
                continue
            self._probed.add(words)
            key = self.backend.probe_key(words)
            if (answer := self._cache.get([key]).get(key)) is not None:
                self.backend._probe_results[words] = self._findings[words] = answer.text
            elif self.is_server:
                probe = self._cost(len(self.form.render("", "This is an example.").encode()), 1)
                self.most += Usage(oracle_calls=PROBES) + self._cost(PROBES * 400, PROBES * 400)
                self._charge(budget, Usage(oracle_calls=1) + probe)

    def answer(self, queries: Sequence[Query], budget: Budget) -> Generator[tuple[int, OracleAnswer], None, None]:
        real = self._real(queries)
        for position, query in enumerate(queries):
            if position in real:
                self.known += 1
                yield position, real[position]
            else:
                self._count(query, budget)
                yield position, self._made_up(query)

    def _real(self, queries: Sequence[Query]) -> dict[int, OracleAnswer]:
        """Return position -> the answer in the cache, of the questions that were asked before."""
        keys = {
            position: key_of(self.backend.fingerprint_of(query), query)
            for position, query in enumerate(queries)
            if not isinstance(self.backend, Probed) or self.backend.words(query) in self._findings
        }
        answers = self._cache.get(keys.values()) if keys else {}
        useful = {key: answer for key, answer in answers.items() if not answer.says_nothing}
        return {position: useful[key] for position, key in keys.items() if key in useful}

    def _count(self, query: Query, budget: Budget) -> None:
        """Charge for a question, as its kind and the way of scoring ask for it."""
        calls, answer_tokens = 1, 1
        if isinstance(query, ScoreQuery):
            words = [self.form.word(name) for name in query.classes]
            text = query.item.text if isinstance(query.item, TextItem) else ""
            size = len(self.form.render(query.prompt.text, text).encode())
            size += self.soft.dim // 100 if query.prompt.soft is not None and self.soft is not None else 0
            calls, answer_tokens, more = self._way(words, query)
            size = calls * size + more
        elif isinstance(query, ProposalQuery):
            size, answer_tokens = len(f"{query.before}{query.after}".encode()) + 100, 8 * query.count + 8
        else:
            size, answer_tokens = len(query.text.encode()), query.max_tokens
        if not self.is_server:
            self.most += Usage(oracle_calls=calls)
            self._charge(budget, Usage(oracle_calls=calls))
            return
        self.most += Usage(oracle_calls=calls) + self._priced(size + calls * FRAME, calls * answer_tokens)
        self._charge(budget, Usage(oracle_calls=calls) + self._cost(size, calls * answer_tokens))

    def _way(self, words: Sequence[str], query: Query) -> tuple[int, int, int]:
        """Return requests, tokens of an answer, and more bytes of a question about labels."""
        scoring, is_chat = self.options.scoring, self.options.mode == "chat"
        text = self._findings.get(self.backend.words(query)) if isinstance(self.backend, Probed) else None
        if text is not None and self.backend.name == "api":
            findings = Findings.from_json(text)
            scoring, is_chat = findings.scoring, findings.endpoint == "chat"
        system = len(SYSTEM.format(words=", ".join(words)).encode()) if is_chat else 0
        if scoring == "echo":
            return len(words), 1, sum(len(word.encode()) + 1 for word in words)
        if scoring == "choice":
            return 1, self.options.choice_tokens or 4 + max(len(word.encode()) for word in words) // 2, system
        return 1, 1, system

    def _cost(self, size: int, answer_tokens: int) -> Usage:
        """Return the likely tokens and their price of ``size`` bytes."""
        return self._priced(-(-size // BYTES_A_TOKEN), answer_tokens)

    def _priced(self, prompt_tokens: int, answer_tokens: int) -> Usage:
        prompt, answer = self.options.usd_per_million_prompt_tokens, self.options.usd_per_million_completion_tokens
        usd = (prompt_tokens * prompt + answer_tokens * answer) / MILLION
        return Usage(prompt_tokens=prompt_tokens, completion_tokens=answer_tokens, usd=usd)

    @staticmethod
    def _charge(budget: Budget, cost: Usage) -> None:
        budget.settle(budget.reserve(calls=cost.oracle_calls), cost)

    def _made_up(self, query: Query) -> OracleAnswer:
        """Return an answer that depends on the question and the seed alone."""
        question = (str(query.described), query.item.content_id()) if isinstance(query, ScoreQuery) else repr(query)
        draw = random.Random(hashlib.sha256(f"{self.seed}|{question}".encode()).digest())
        if isinstance(query, ScoreQuery):
            return OracleAnswer(scores=tuple(-draw.expovariate(1.0) for _ in query.classes))
        if isinstance(query, ProposalQuery):
            return OracleAnswer(tokens=tuple(draw.sample(WORDS, min(query.count, len(WORDS)))))
        return OracleAnswer(
            text=" ".join(draw.choices(WORDS, k=min(12, query.max_tokens))) + f" {draw.randrange(10**6)}"
        )
