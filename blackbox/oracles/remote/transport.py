"""Requests to an OpenAI-compatible server: limited in number and rate, budgeted, retried where that can help.

Every request that may have cost something counts: one that was answered, with whatever, is a call; so is one that was
lost on the way back (timeout, connection reset), because the server may have done the work. A refusal (429, 5xx) or a
server that was not reached costs nothing.
"""

from __future__ import annotations

import asyncio
import email.utils
import importlib.util
import logging
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from promptfed.blackbox.oracles.budget import Budget
from promptfed.blackbox.oracles.remote.credentials import read_key
from promptfed.blackbox.oracles.remote.failures import Refused, Retryable, Stopped, Unanswerable, Unusable
from promptfed.blackbox.oracles.remote.guarded_client import LARGEST_BODY, Unsafe, guarded_client, timeouts
from promptfed.errors import BudgetExhausted, FormatError, MissingPackageError, OracleError
from promptfed.oracle_options import OracleOptions
from promptfed.readers.json_reader import JsonLimits, parse_json
from promptfed.usage import Usage

T = TypeVar("T")
Endpoint = Literal["completions", "chat"]
Body = Mapping[str, Any]
log = logging.getLogger(__name__)
HEALING = (408, 409, 429)
LONGEST_BACKOFF = 30.0
ABSENT_TRIES, ABSENT_SECONDS = 3, 3.0
"""How often, and how long, a server is tried that never answered: a wrong address is told in seconds."""
BURST_SECONDS = 5.0
"""Length of a burst in seconds: the requests of that time may be made at once."""
MILLION = 1e6
ANSWER_LIMITS = JsonLimits(size=LARGEST_BODY, values=4_000_000)
"""Most values of one answer: a token's log-probability comes with a dozen."""
MOST_TOKENS = 10**9
"""Most tokens of one answer; a larger number is not a token count."""


@dataclass
class Asking:
    """State of one batch of questions: who pays, and whether to stop."""

    budget: Budget
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    keep: Callable[[Any], None] = lambda answer: None
    """Called with each answer before it counts as paid, so that a process killed in between repeats no question."""


@dataclass(frozen=True)
class _Outcome:
    """Outcome of one attempt: the raw answer, or a ``fault``; ``reached``: the server may have done the work."""

    raw: bytes = b""
    fault: Retryable | OracleError | None = None
    reached: bool = True


class Transport:
    """Connection to one server. Call its methods in one event loop."""

    def __init__(self, options: OracleOptions) -> None:
        import openai
        from aiolimiter import AsyncLimiter

        for name in ("openai", "httpx", "httpx2", "httpcore", "httpcore2"):
            logger = logging.getLogger(name)  # at a lower level they write addresses, headers and texts down
            logger.setLevel(max(logger.level, logging.WARNING))
        assert options.base_url is not None
        self.options, self.key = options, read_key(options)
        self._openai = openai
        self._client = openai.AsyncOpenAI(
            base_url=options.base_url,
            api_key=self.key.value,
            max_retries=0,
            timeout=timeouts(openai, options.timeout_seconds),
            http_client=guarded_client(openai, options.timeout_seconds),
            default_headers={"Accept-Encoding": "identity"},
        )
        self._has_answered = False
        self.pauses = 0
        """Requests that wait for a second or longer before they are made again."""
        self._slots = asyncio.Semaphore(options.concurrency)
        self._requests = _limiter(AsyncLimiter, options.requests_per_minute)
        self._tokens = _limiter(AsyncLimiter, options.tokens_per_minute)
        self._settled = asyncio.Event()
        self._jitter = random.Random()  # for waiting times only
        self._frame: dict[str, int] = {"completions": 8, "chat": 64}
        """Tokens of the server's frame around prompts, as its answers show."""

    async def post(
        self,
        endpoint: Endpoint,
        body: Body,
        parse: Callable[[dict[str, Any]], T],
        asking: Asking,
        patience: int | None = None,
        size: int | None = None,
    ) -> T:
        """Send a request and return the JSON answer as ``parse`` reads it.

        ``parse`` raises Unusable for an answer that cannot be used; at most ``patience`` of them are tried (None: as
        many as other attempts). ``size``: most tokens of the prompt (None: a text's bytes). Raises Refused for a
        request that cannot be answered, Unanswerable or OracleError if retries do not help, BudgetExhausted, Stopped if
        ``asking`` is stopping.
        """
        from tenacity import AsyncRetrying, retry_if_exception_type

        limit, attempts, unusable, is_absent = self.options.retries + 1, 0, 0, False
        began = time.monotonic()

        def is_over() -> bool:
            if is_absent and not self._has_answered:
                return attempts >= min(limit, ABSENT_TRIES) or time.monotonic() - began > ABSENT_SECONDS
            return attempts >= limit or (patience is not None and unusable >= patience)

        failure: Retryable | None = None
        retrying = AsyncRetrying(
            stop=lambda state: is_over(),
            wait=self._pause,
            retry=retry_if_exception_type(Retryable),
            sleep=lambda seconds: self._sleep(seconds, asking),
            reraise=True,
        )
        try:
            async for attempt in retrying:
                with attempt:
                    attempts += 1
                    try:
                        return await self._attempt(endpoint, body, parse, asking, attempts > 1, size)
                    except Retryable as fault:
                        unusable += fault.unusable
                        is_absent = fault.absent
                        log.info("%s: %s (attempt %d of %d)", self.options.base_url, fault, attempts, limit)
                        raise
        except Retryable as fault:
            failure = fault
        assert failure is not None
        kind = Unanswerable if failure.unusable else OracleError
        fix = ": is it running, and is --base-url right?" if failure.absent and not self._has_answered else ""
        raise kind(f"{self.options.base_url}: {failure} (after {attempts} attempts){fix}")

    async def models(self) -> list[str]:
        """Return the models that the server lists; empty if it lists none. Costs nothing, is not counted."""
        try:
            async with asyncio.timeout(min(10.0, self.options.timeout_seconds)):
                reply = await self._client.models.list()
            return [self.key.scrubbed(str(model.id)) for model in reply.data]
        except Exception:  # any error: this only improves a message
            return []

    async def close(self) -> None:
        await self._client.close()

    # ------------------------------------------------------------------------------------------- one attempt

    async def _attempt(
        self,
        endpoint: Endpoint,
        body: Body,
        parse: Callable[[dict[str, Any]], T],
        asking: Asking,
        is_retry: bool,
        size: int | None,
    ) -> T:
        async with self._slots:
            if asking.stopping.is_set():
                raise Stopped
            prompt_tokens = _text_bytes(body) if size is None else size
            answer_tokens = int(body.get("max_tokens") or body.get("max_completion_tokens") or 1)
            prompt = prompt_tokens + self._frame[endpoint]
            reservation = await self._reserved(asking, prompt + answer_tokens, self._usd(prompt, answer_tokens))
            again = Usage(oracle_retries=int(is_retry))
            usage, content = again, None
            try:
                await self._limited(prompt_tokens // 3 + answer_tokens)
                worst = self._priced(
                    Usage(oracle_calls=1, prompt_tokens=-(-prompt_tokens // 4) if size is None else size)
                )
                usage = worst + again  # should this be cancelled now, it may have been carried out
                outcome = await self._sent(endpoint, body)
                usage, fault = again, outcome.fault
                if outcome.reached:
                    usage = worst + again
                if fault is None:
                    fault, content, cost = self._read(outcome.raw, parse, worst)
                    usage = cost + again
                    self._frame[endpoint] = max(self._frame[endpoint], cost.prompt_tokens - prompt_tokens)
                    if fault is None:
                        asking.keep(content)
            finally:
                asking.budget.settle(reservation, usage)
                self._settled.set()
        if fault is not None:
            raise fault
        return content  # type: ignore[return-value] # what read returned

    def _read(
        self, raw: bytes, parse: Callable[[dict[str, Any]], T], worst: Usage
    ) -> tuple[Retryable | OracleError | None, T | None, Usage]:
        """Return (fault, content, cost) of an answer."""
        try:
            reply = self.key.clean(parse_json(raw, ANSWER_LIMITS, finite=False, any_strings=True))
        except FormatError as error:
            why = self.key.scrubbed(str(error))
            return Retryable(f"the answer is not usable JSON, or was cut off: {why}", unusable=True), None, worst
        if not isinstance(reply, dict):
            return Retryable("the answer is not a JSON object", unusable=True), None, worst
        if (excess := _impossible_count(reply)) is not None:
            return (
                Retryable(f"the server reports {excess} tokens for one answer, which cannot be", unusable=True),
                None,
                worst,
            )
        cost = self._reported(reply, worst)
        try:
            return None, parse(reply), cost
        except Unusable as error:
            return Retryable(self.key.scrubbed(str(error)), unusable=True), None, cost
        except OracleError as error:
            return error, None, cost

    async def _sent(self, endpoint: Endpoint, body: Body) -> _Outcome:
        openai = self._openai
        create: Any = self._client.completions.with_raw_response.create
        if endpoint == "chat":
            create = self._client.chat.completions.with_raw_response.create
        main = {name: body[name] for name in ("model", "prompt", "messages") if name in body}
        extra = {name: value for name, value in body.items() if name not in main}
        try:
            # The client's own limit is for each byte that arrives: a slow server would never meet it.
            async with asyncio.timeout(self.options.timeout_seconds):
                response = await create(**main, extra_body=extra)
                self._has_answered = True
                return _Outcome(raw=response.content)
        except openai.APIStatusError as error:
            self._has_answered = True
            return self._refusal(error)
        except Unsafe as error:
            return self._unsafe(error)
        except (TimeoutError, openai.APITimeoutError) as error:
            reached = "Connect" not in type(error.__cause__).__name__
            if not reached:
                return _Outcome(
                    fault=Retryable("the server cannot be reached (no connection)", absent=True), reached=False
                )
            return _Outcome(fault=Retryable(f"no answer within {self.options.timeout_seconds:g} s"))
        except openai.APIConnectionError as error:
            if isinstance(error.__cause__, Unsafe):
                return self._unsafe(error.__cause__)
            cause = type(error.__cause__).__name__
            reached = not cause.startswith("Connect") and cause not in ("PoolTimeout", "UnsupportedProtocol")
            problem = "the connection was lost" if reached else "the server cannot be reached"
            return _Outcome(fault=Retryable(f"{problem} ({cause})", absent=not reached), reached=reached)
        except openai.OpenAIError as error:
            return _Outcome(fault=Retryable(self.key.scrubbed(f"{type(error).__name__}: {error}")[:300], unusable=True))

    def _unsafe(self, error: Unsafe) -> _Outcome:
        return _Outcome(fault=OracleError(f"{self.options.base_url}: {self.key.scrubbed(str(error))}"))

    def _refusal(self, error: Any) -> _Outcome:
        status = int(error.status_code)
        message = self.key.scrubbed(" ".join(str(error.message).split()))[:400]
        if status in HEALING or status >= 500:
            pause = min(_retry_after(error.response.headers), self.options.retry_after_seconds)
            return _Outcome(fault=Retryable(f"status {status}: {message}", pause), reached=False)
        hint = ""
        if status in (401, 403):
            hint = "; is the right key in the variable named by --api-key-env?"
        refusal = Refused(f"{self.options.base_url} refuses (status {status}): {message}{hint}", status, message)
        return _Outcome(fault=refusal, reached=False)

    # ------------------------------------------------------------------------------------- waiting and paying

    async def _reserved(self, asking: Asking, tokens: int, usd: float) -> Any:
        while True:
            try:
                return asking.budget.reserve(calls=1, tokens=tokens, usd=usd)
            except BudgetExhausted:
                if asking.stopping.is_set() or not asking.budget.under_way:
                    raise
            self._settled.clear()  # those under way mostly cost less than was set aside for them
            await self._settled.wait()

    async def _limited(self, tokens: int) -> None:
        if self._requests is not None:
            await self._requests.acquire()
        if self._tokens is not None:
            await self._tokens.acquire(min(tokens, self._tokens.max_rate))

    def _pause(self, state: Any) -> float:
        fault = state.outcome.exception()
        backoff = min(LONGEST_BACKOFF, self.options.backoff_seconds * 2.0 ** (state.attempt_number - 1))
        return float(max(fault.wait, backoff * self._jitter.uniform(0.75, 1.25)))

    async def _sleep(self, seconds: float, asking: Asking) -> None:
        self.pauses += seconds >= 1
        try:
            async with asyncio.timeout(seconds):
                await asking.stopping.wait()
        except TimeoutError:
            return
        finally:
            self.pauses -= seconds >= 1
        raise Stopped

    def _reported(self, reply: Mapping[str, Any], worst: Usage) -> Usage:
        """Return the cost that the server reports; the estimate where it does not say."""
        usage = reply.get("usage")
        counts = [
            usage.get(name) if isinstance(usage, dict) else None for name in ("prompt_tokens", "completion_tokens")
        ]
        prompt, completion = (n if isinstance(n, int) and n >= 0 else None for n in counts)
        if prompt is None:
            return self._priced(worst + Usage(completion_tokens=_said_tokens(reply)))
        return self._priced(Usage(oracle_calls=1, prompt_tokens=prompt, completion_tokens=completion or 0))

    def _usd(self, prompt: int, completion: int) -> float:
        options = self.options
        price = prompt * options.usd_per_million_prompt_tokens + completion * options.usd_per_million_completion_tokens
        return price / MILLION

    def _priced(self, usage: Usage) -> Usage:
        usd = self._usd(usage.prompt_tokens, usage.completion_tokens)
        return Usage(
            oracle_calls=usage.oracle_calls,
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            usd=usd,
        )


def check_installed() -> None:
    """Raise MissingPackageError if a package of the extra "blackbox" is missing."""
    names = [name for name in ("openai", "tenacity", "aiolimiter") if importlib.util.find_spec(name) is None]
    if names:
        raise MissingPackageError(f"oracles api and embeds need {', '.join(names)}: pip install 'promptfed[blackbox]'")


def _limiter(kind: Any, a_minute: float | None) -> Any:
    """Return a limiter to ``a_minute`` on average, in bursts of ``BURST_SECONDS``."""
    if a_minute is None:
        return None
    burst = max(1.0, a_minute * BURST_SECONDS / 60)
    return kind(burst, burst * 60 / a_minute)


def _text_bytes(body: Body) -> int:
    """Return the bytes of the text that the model reads, an upper bound on its tokens but for the frame."""
    prompt = body.get("prompt")
    texts = [prompt] if isinstance(prompt, str) else []
    texts += [str(message["content"]) for message in body.get("messages", ())]
    return sum(len(text.encode()) for text in texts)


def _impossible_count(reply: Mapping[str, Any]) -> str | None:
    """Return in words a number of tokens in ``reply`` that no answer has, if there is one."""
    usage = reply.get("usage")
    for value in usage.values() if isinstance(usage, dict) else ():
        if isinstance(value, int | float) and not abs(value) <= MOST_TOKENS:
            return f"{value:.0e}" if isinstance(value, float) else f"10^{len(str(abs(value))) - 1}"
    return None


def _said_tokens(reply: Mapping[str, Any]) -> int:
    choices = reply.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
    message = choice.get("message")
    text = choice.get("text") or (message.get("content") if isinstance(message, dict) else None) or ""
    return max(1, -(-len(str(text).encode()) // 4))


def _retry_after(headers: Any) -> float:
    """Return the seconds that the server asks to wait, 0 if it does not say (RFC 9110, 10.2.3)."""
    value = str(headers.get("retry-after", "")).strip()
    try:
        if "retry-after-ms" in headers:
            return max(0.0, float(headers["retry-after-ms"]) / 1000)
        return max(0.0, float(value)) if value else 0.0
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return 0.0
