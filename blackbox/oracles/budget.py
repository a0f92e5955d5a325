"""Budget of a run's queries: reserved before a request, settled after it, and a hard stop at the limit."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field

from promptfed.errors import BudgetExhausted
from promptfed.oracle_options import OracleOptions
from promptfed.usage import Usage


class Limits(BaseModel):
    """Limits of a whole run, resumed ones included; None is no limit. Cache hits are free."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    calls: int | None = Field(default=None, ge=0)
    tokens: int | None = Field(default=None, ge=0)
    usd: float | None = Field(default=None, ge=0)

    @classmethod
    def of(cls, options: OracleOptions) -> Limits:
        """Return the limits in ``options``."""
        return cls(calls=options.max_calls, tokens=options.max_tokens, usd=options.max_usd)


@dataclass(frozen=True)
class Reservation:
    """Maximum cost of a request that is under way."""

    number: int
    usage: Usage


class Budget:
    """Count of the cost so far and of the maximum cost of requests under way. Safe for threads.

    ``limits`` hold for ``spent`` (from a ledger) and all that follows. ``on_reserved`` is called with every
    reservation, ``on_settled`` with it and its real cost: a log of both shows after a crash which requests were under
    way.
    """

    def __init__(self, limits: Limits | None = None, spent: Usage | None = None) -> None:
        self.limits, self.spent = limits or Limits(), spent or Usage()
        self.on_reserved: Callable[[Reservation], None] = lambda reservation: None
        self.on_settled: Callable[[Reservation, Usage], None] = lambda reservation, used: None
        self._open_requests: dict[int, Usage] = {}
        self._total_held = Usage()
        self._last = 0
        self._lock = threading.RLock()

    def reserve(self, calls: int = 1, tokens: int = 0, usd: float = 0.0) -> Reservation:
        """Set aside the maximum cost of a request.

        Raises:
            BudgetExhausted: It is more than is left; nothing is set aside.
        """
        request = Usage(oracle_calls=calls, prompt_tokens=tokens, usd=usd)
        with self._lock:
            total = self.spent + self._total_held + request
            for quantity, amount, limit in (
                ("calls", total.oracle_calls, self.limits.calls),
                ("tokens", total.prompt_tokens + total.completion_tokens, self.limits.tokens),
                ("usd", total.usd, self.limits.usd),
            ):
                if limit is not None and amount > limit + 1e-12:
                    raise BudgetExhausted(
                        f"the oracle's budget of {limit:.12g} {quantity} is used up (spent so far: "
                        f"{self.spent.oracle_calls} calls, {self.spent.prompt_tokens + self.spent.completion_tokens} "
                        f"tokens, {self.spent.usd:.4f} usd); raise it with --max-{quantity}"
                    )
            self._last += 1
            reservation = Reservation(self._last, request)
            self.on_reserved(reservation)
            self._open_requests[reservation.number] = request
            self._total_held += request
        return reservation

    def settle(self, reservation: Reservation, cost: Usage) -> None:
        """Replace ``reservation`` by its real cost: nothing, if the request never reached the black box."""
        with self._lock:
            request = self._open_requests.pop(reservation.number, None)
            if request is None:
                raise ValueError(f"reservation {reservation.number} is not open: it was settled before")
            self._total_held = self._total_held - request if self._open_requests else Usage()
            self.spent += cost
            self.on_settled(reservation, cost)

    @property
    def under_way(self) -> int:
        """Return the requests that are reserved and not settled yet."""
        return len(self._open_requests)

    @contextmanager
    def reserved(self, calls: int = 1, tokens: int = 0, usd: float = 0.0) -> Iterator[None]:
        """Reserve for requests that cost just that; if the block raises, they cost nothing."""
        reservation = self.reserve(calls, tokens, usd)
        try:
            yield
        except BaseException:
            self.settle(reservation, Usage())
            raise
        self.settle(reservation, reservation.usage)
