"""The base of oracles behind a server: concurrent questions, and a probe before the first one."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import re
import threading
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Coroutine, Generator, Sequence
from concurrent.futures import Future, wait
from dataclasses import replace
from typing import Any, ClassVar, TypeVar

from promptfed.blackbox.oracles.base import Backend
from promptfed.blackbox.oracles.budget import Budget
from promptfed.blackbox.oracles.cache import AnswerCache
from promptfed.blackbox.oracles.query import OracleAnswer, Query, ScoreQuery, key_of
from promptfed.blackbox.oracles.remote.failures import Refused, Stopped, Unanswerable
from promptfed.blackbox.oracles.remote.transport import Asking, Transport
from promptfed.errors import OracleError, OracleHalted, PromptFedError
from promptfed.oracle_options import OracleOptions
from promptfed.prompt_template import PromptTemplate
from promptfed.trust import normal_address

T = TypeVar("T")
Words = tuple[str, ...]
log = logging.getLogger(__name__)
_MODERATION = re.compile(r"moderat|content|policy|flagged|safety", re.IGNORECASE)
MANY = 0.1
"""Share of floored labels above which the log warns."""
ENOUGH = 50
POLL_SECONDS = 0.25
"""Seconds between checks whether the user asks to stop."""
HALTED = "asked to stop while {} had requests wait; what was answered is kept"


class Probed(Backend):
    """Black box that is probed before the first question.

    ``probe`` returns in JSON the findings for a set of label words (empty: for other questions than scores); the cache
    keeps them. They are a part of the key of every answer, so that scores of two kinds never mix.
    """

    _probe_results: dict[Words, str]
    address: str = ""
    """Its address. ``fingerprint`` identifies the model, also at another address; answers are kept by address."""

    @abstractmethod
    def probe(self, words: Words, budget: Budget) -> str:
        """Probe the black box; requests go through ``budget``.

        Raises:
            OracleError: The black box cannot be used.
        """

    def prepare(self, queries: Sequence[Query], cache: AnswerCache, budget: Budget) -> None:
        for words in dict.fromkeys(map(self.words, queries)):
            if words not in self._probe_results:
                key = self.probe_key(words)
                answer = cache.get([key]).get(key)
                if answer is None:
                    answer = OracleAnswer(text=self.probe(words, budget))
                    cache.put({key: answer})
                self._probe_results[words] = answer.text

    def fingerprint_of(self, query: Query) -> str:
        return _sha256([self.fingerprint, self.address, self._probe_results[self.words(query)]])

    def words(self, query: Query) -> Words:
        return tuple(map(self.form.word, query.classes)) if isinstance(query, ScoreQuery) else ()

    def probe_key(self, words: Words) -> str:
        return _sha256([self.fingerprint, self.address, "probe", words])


class RemoteBackend(Probed):
    """A server.

    Subclasses say how one question is asked (``ask_one``) and how the server is probed (``find_out``); both run in an
    event loop in a thread of its own, begun at the first request.
    """

    paid: ClassVar[bool] = True

    def __init__(self, form: PromptTemplate, options: OracleOptions, described: Sequence[object]) -> None:
        self.form, self.options, self._probe_results = form, options, {}
        self.address = normal_address(options.base_url or "")
        parts = [self.name, options.model, options.served_model, options.mode, options.scoring, options.top_logprobs]
        parts += [] if options.choice_tokens is None else [options.choice_tokens]
        parts += [] if options.prompt_cache == "server" else [f"prompt cache {options.prompt_cache}"]
        self.fingerprint = _sha256([*parts, form.template, form.preamble, dict(form.words), *described])
        self._loop: asyncio.AbstractEventLoop | None = None
        self._transport: Transport | None = None
        self._cache = AnswerCache(None)
        self._labels = self._floored = 0
        self._warned = False

    @abstractmethod
    async def ask_one(self, query: Query, asking: Asking) -> OracleAnswer: ...

    @abstractmethod
    async def find_out(self, words: Words, asking: Asking) -> str: ...

    def order(self, queries: Sequence[Query]) -> Sequence[int]:
        """Return the positions of ``queries`` in the order in which they are asked."""
        return range(len(queries))

    @property
    def transport(self) -> Transport:
        """Return the transport; call it inside the event loop."""
        if self._transport is None:
            self._transport = Transport(self.options)
        return self._transport

    def prepare(self, queries: Sequence[Query], cache: AnswerCache, budget: Budget) -> None:
        self._cache = cache
        super().prepare(queries, cache, budget)

    def probe(self, words: Words, budget: Budget) -> str:
        asking = Asking(budget)
        running = self._submit(self.find_out(words, asking))
        try:
            while not running.done():
                wait([running], POLL_SECONDS)
                if self._is_halted():
                    self._call(asking.stopping.set)
            return running.result()
        except Stopped:
            raise OracleHalted(HALTED.format(self.options.base_url)) from None
        except PromptFedError:
            raise
        except Exception as error:
            raise self._error_to_raise(error) from None
        except BaseException:
            running.cancel()
            raise

    def answer(self, queries: Sequence[Query], budget: Budget) -> Generator[tuple[int, OracleAnswer], None, None]:
        arrived: deque[tuple[int, OracleAnswer]] = deque()
        news, over, asking = threading.Event(), threading.Event(), Asking(budget)
        tasks: list[asyncio.Task[None]] = []

        def arrives(position: int, answer: OracleAnswer) -> None:
            arrived.append((position, answer))
            news.set()

        def ends(task: asyncio.Task[None]) -> None:
            over.set()
            news.set()

        def begin() -> None:
            tasks.append(asyncio.create_task(self._ask_all(queries, asking, arrives)))
            tasks[0].add_done_callback(ends)

        self._call(begin)
        interrupted: KeyboardInterrupt | None = None
        is_over = halted = False
        try:
            while not is_over:
                try:
                    news.wait(POLL_SECONDS)
                    news.clear()
                    if not halted and self._is_halted():
                        halted = True
                        self._call(asking.stopping.set)
                    is_over = over.is_set()
                    while arrived:
                        yield arrived[0]
                        arrived.popleft()  # only now is it certain that the query was taken
                except KeyboardInterrupt as stop:
                    if interrupted is not None:
                        raise
                    interrupted, is_over = stop, False  # those under way are still waited for: they are paid
                    self._call(asking.stopping.set)
                    news.set()
        finally:
            if not is_over:
                self._call(lambda: tasks[0].cancel())
                over.wait()  # until every reservation is settled
        if interrupted is not None:
            raise interrupted
        if halted and tasks[0].exception() is None:
            raise OracleHalted(HALTED.format(self.options.base_url))
        try:
            tasks[0].result()
        except Unanswerable:
            # The server may have changed since the probe: the next run probes it again.
            self._cache.forget([self.probe_key(words) for words in self._probe_results])
            raise

    def close(self) -> None:
        if self._loop is not None:
            if self._transport is not None:
                self._submit(self._transport.close()).result(10)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._loop = self._transport = None

    def count_floored(self, labels: int, floored: int) -> None:
        """Warn once when many labels are not among the log-probabilities in replies."""
        self._labels, self._floored = self._labels + labels, self._floored + floored
        if not self._warned and self._labels >= ENOUGH and self._floored > MANY * self._labels:
            self._warned = True
            log.warning(
                "%d of %d labels were not among the log-probabilities that %s reports and were set to a floor: raise "
                "--set oracle.top_logprobs, or use label words that the model is likelier to say (task.words)",
                self._floored, self._labels, self.options.base_url,
            )  # fmt: skip

    async def _ask_all(
        self, queries: Sequence[Query], asking: Asking, arrives: Callable[[int, OracleAnswer], None]
    ) -> None:
        remaining, failures = iter([(k, queries[k]) for k in self.order(queries)]), list[Exception]()

        async def work() -> None:
            for position, query in remaining:
                if asking.stopping.is_set():
                    return
                try:
                    key = key_of(self.fingerprint_of(query), query)
                    answer = await self.ask_one(query, self._keeping(key, asking))
                except Stopped:
                    return
                except Refused as error:
                    if not is_about_the_text(error):
                        failures.append(error)
                        asking.stopping.set()
                        return
                    answer = OracleAnswer(unanswered=f"refused (status {error.status}): {error.said}", left_out=True)
                except Exception as error:
                    failures.append(self._error_to_raise(error))
                    asking.stopping.set()  # no further request begins; those under way end
                    return
                arrives(position, answer)

        await asyncio.gather(*(work() for _ in range(min(self.options.concurrency, len(queries)))))
        if failures:
            raise failures[0]

    def _keeping(self, key: str, asking: Asking) -> Asking:
        """Return ``asking`` with a hook that writes each answer into the cache under ``key`` before it counts."""

        def keep(answer: object) -> None:
            if isinstance(answer, OracleAnswer) and not answer.says_nothing:
                self._cache.put({key: answer})

        return replace(asking, keep=keep)

    def _error_to_raise(self, error: Exception) -> Exception:
        """Return the error to raise for a failed request: no client's fault, and without the key."""
        if isinstance(error, PromptFedError):
            return error
        log.debug("unexpected %s", type(error).__name__)
        message = self.transport.key.scrubbed(f"{type(error).__name__}: {error}")
        return OracleError(f"{self.options.base_url}: the question or its answer cannot be handled ({message[:300]})")

    def _is_halted(self) -> bool:
        """Return whether the user asks to stop while requests wait for a server."""
        return self._transport is not None and self._transport.pauses > 0 and self.should_stop()

    def _submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        return asyncio.run_coroutine_threadsafe(work, self._running())

    def _call(self, work: Callable[[], object]) -> None:
        self._running().call_soon_threadsafe(work)

    def _running(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            threading.Thread(target=self._loop.run_forever, name=f"oracle {self.name}", daemon=True).start()
        return self._loop


def is_about_the_text(error: Refused) -> bool:
    """Return whether a server that answers other questions refuses this one for its content or length."""
    if error.status == 403:
        return bool(_MODERATION.search(error.said))
    return error.status in (400, 413, 422)


def _sha256(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
