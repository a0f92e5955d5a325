"""Scales: from values to places along an axis, with ticks at round numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

STEPS = (1, 2, 5, 10)


@dataclass(frozen=True)
class Scale:
    """A line from ``low`` to ``high`` drawn from ``start`` to ``end``; ``is_log``: equal ratios are equally far.

    Attributes:
        ticks: Values with a tick, in rising order.
    """

    low: float
    high: float
    start: float
    end: float
    ticks: tuple[float, ...]
    is_log: bool = False

    def place(self, value: float) -> float:
        """Return where ``value`` stands."""
        low, high = self.low, self.high
        if self.is_log:
            low, high, value = math.log10(low), math.log10(high), math.log10(value)
        return self.start + (value - low) / (high - low) * (self.end - self.start)


def linear_scale(
    values: Iterable[float],
    start: float,
    end: float,
    *,
    most_ticks: int = 6,
    integer: bool = False,
    limits: tuple[float | None, float | None] = (None, None),
) -> Scale:
    """Return a scale around ``values`` that begins and ends at round numbers.

    Args:
        values: What must be on it; finite.
        start: Place of its low end.
        end: Place of its high end.
        most_ticks: About how many ticks there may be.
        integer: Ticks are whole numbers, and the scale ends at the values (rounds, counts).
        limits: Fixed ends, such as (0, 100); None: round numbers around the values.
    """
    present = [*values, *(limit for limit in limits if limit is not None)]
    low, high = min(present, default=0.0), max(present, default=1.0)
    if limits[0] is not None:
        low = limits[0]
    if limits[1] is not None:
        high = limits[1]
    if math.isclose(low, high, rel_tol=1e-9):  # means that differ in their last bits are one value
        low, high = (low - 0.5, high + 0.5) if integer else (low - abs(low or 1) / 10, high + abs(high or 1) / 10)
    step = round_step((high - low) / max(1, most_ticks - 1), integer)
    if not integer:
        low = low if limits[0] is not None else math.floor(low / step + 1e-9) * step
        high = high if limits[1] is not None else math.ceil(high / step - 1e-9) * step
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    ticks = tuple(round(k * step, 10) + 0.0 for k in range(first, last + 1))
    return Scale(low, high, start, end, ticks)


def log_scale(values: Iterable[float], start: float, end: float) -> Scale:
    """Return a scale of equal ratios around ``values``, which are above 0, with ticks at 1, (2, 5,) 10 ..."""
    present = list(values)
    low, high = math.log10(min(present, default=1.0)), math.log10(max(present, default=10.0))
    pad = max(0.08 * (high - low), 0.15)
    low, high = low - pad, high + pad
    digits = (1,) if high - low > 2.5 else (1, 2, 5)
    every = max(1, round((high - low) / 6)) if len(digits) == 1 else 1
    ticks = [
        digit * 10.0**power
        for power in range(math.floor(low), math.ceil(high) + 1, every)
        for digit in digits
        if low <= math.log10(digit * 10.0**power) <= high
    ]
    return Scale(10**low, 10**high, start, end, tuple(ticks), is_log=True)


def round_step(step: float, integer: bool = False) -> float:
    """Return the smallest of 1, 2, 5, 10 ... (times a power of ten) that is at least ``step``."""
    if integer and step <= 1:
        return 1.0
    power = 10.0 ** math.floor(math.log10(step))
    return next(digit * power for digit in STEPS if digit * power >= step * (1 - 1e-9))


def short_number(value: float) -> str:
    """Format a value at a tick: ``"1,000"``, ``"0.25"``, ``"1e-05"``."""
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:.4g}"
