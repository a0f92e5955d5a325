"""What a run may spend on a black box: reserved before a request, settled after it, and a hard stop at the limit."""

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
    """Of a whole run, resumed ones included; None is no limit. Cache hits are free."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    calls: int | None = Field(default=None, ge=0)
    tokens: int | None = Field(default=None, ge=0)
    usd: float | None = Field(default=None, ge=0)

    @classmethod
    def of(cls, options: OracleOptions) -> Limits:
        """Return those that ``options`` name."""
        return cls(calls=options.max_calls, tokens=options.max_tokens, usd=options.max_usd)


@dataclass(frozen=True)
class Reservation:
    """What a request that is under way may cost at most."""

    number: int
    usage: Usage


class Budget:
    """Counts what was spent and what requests under way may still cost. Safe for threads.

    ``limits`` hold for ``spent`` (from a ledger) and all that follows. ``on_reserved`` is told of every reservation,
    ``on_settled`` of it again with what it really cost: who writes both down can tell after a crash what was under way.
    """

    def __init__(self, limits: Limits | None = None, spent: Usage | None = None) -> None:
        self.limits, self.spent = limits or Limits(), spent or Usage()
        self.on_reserved: Callable[[Reservation], None] = lambda reservation: None
        self.on_settled: Callable[[Reservation, Usage], None] = lambda reservation, used: None
        self._held: dict[int, Usage] = {}
        self._total_held = Usage()
        self._last = 0
        self._lock = threading.RLock()

    def reserve(self, calls: int = 1, tokens: int = 0, usd: float = 0.0) -> Reservation:
        """Set aside what a request may cost at most. Raises BudgetExhausted, with nothing set aside, if that is too
        much."""
        wanted = Usage(oracle_calls=calls, prompt_tokens=tokens, usd=usd)
        with self._lock:
            total = self.spent + self._total_held + wanted
            for what, used, limit in (
                ("calls", total.oracle_calls, self.limits.calls),
                ("tokens", total.prompt_tokens + total.completion_tokens, self.limits.tokens),
                ("usd", total.usd, self.limits.usd),
            ):
                if limit is not None and used > limit + 1e-12:
                    raise BudgetExhausted(
                        f"the oracle's budget of {limit:.12g} {what} is used up (spent so far: "
                        f"{self.spent.oracle_calls} calls, {self.spent.prompt_tokens + self.spent.completion_tokens} "
                        f"tokens, {self.spent.usd:.4f} usd); raise it with --max-{what}"
                    )
            self._last += 1
            reservation = Reservation(self._last, wanted)
            self.on_reserved(reservation)
            self._held[reservation.number] = wanted
            self._total_held += wanted
        return reservation

    def settle(self, reservation: Reservation, used: Usage) -> None:
        """The request of ``reservation`` is over and cost ``used`` (nothing, if it never reached the black box)."""
        with self._lock:
            wanted = self._held.pop(reservation.number, None)
            if wanted is None:
                raise ValueError(f"reservation {reservation.number} is not open: it was settled before")
            self._total_held = self._total_held - wanted if self._held else Usage()
            self.spent += used
            self.on_settled(reservation, used)

    @property
    def under_way(self) -> int:
        """Requests that are reserved and not settled yet."""
        return len(self._held)

    @contextmanager
    def reserved(self, calls: int = 1, tokens: int = 0, usd: float = 0.0) -> Iterator[None]:
        """For requests that cost just what was reserved; if the block raises, they cost nothing."""
        reservation = self.reserve(calls, tokens, usd)
        try:
            yield
        except BaseException:
            self.settle(reservation, Usage())
            raise
        self.settle(reservation, reservation.usage)
