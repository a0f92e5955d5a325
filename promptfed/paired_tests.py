"""Tests of whether two methods differ: on the same seeds, or on the same test examples.

Paired t-test (Student 1908): the differences of one method from another on the same seeds, each of which draws its own
partition. McNemar's exact test (1947): of the test examples that one of the two gets right and the other does not, is
a half on each side? Holm's correction (1979) keeps the chance of one false finding among several tests at 5 %.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from promptfed.intervals import t_quantile

LEVEL = 0.05
"""A corrected p below this counts as a difference."""
NEGLIGIBLE = 1e-12
"""A standard deviation of differences below this is none."""


@dataclass(frozen=True)
class Paired:
    """A comparison of a method with another one.

    Attributes:
        difference: How much better the method is, in 0..1.
        interval: Its 95 % interval; None where none can be given.
        p: Probability of such a difference, or a larger one, if the two are alike; None where it cannot be told.
    """

    difference: float
    interval: tuple[float, float] | None
    p: float | None


def seed_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Return the 95 % interval (Student's t) of the mean of ``values``, one a seed; None for fewer than two."""
    if len(values) < 2:
        return None
    half = t_quantile(len(values) - 1) * stdev(values) / math.sqrt(len(values))
    return fmean(values) - half, fmean(values) + half


def paired_t(values: Sequence[float], others: Sequence[float]) -> Paired | None:
    """Compare ``values`` with ``others``, one a seed, in the same order; None for fewer than two seeds.

    Equal differences on all seeds have no spread to judge them by: then p is 1 if they are 0, else None.
    """
    from scipy.special import stdtr

    differences = [value - other for value, other in zip(values, others, strict=True)]
    n = len(differences)
    if n < 2:
        return None
    mean, deviation = fmean(differences), stdev(differences)
    if deviation < NEGLIGIBLE:
        return Paired(mean, None, 1.0 if abs(mean) < NEGLIGIBLE else None)
    t = mean / (deviation / math.sqrt(n))
    return Paired(mean, seed_interval(differences), float(2 * stdtr(n - 1, -abs(t))))


def mcnemar(only_one: int, only_other: int) -> float:
    """Return the two-sided p of McNemar's exact test.

    Args:
        only_one: Examples that one method gets right and the other does not.
        only_other: Those of the other.
    """
    from scipy.special import bdtr

    n = only_one + only_other
    return 1.0 if n == 0 else min(1.0, 2 * float(bdtr(min(only_one, only_other), n, 0.5)))


def mcnemar_of(right: Sequence[bool], others: Sequence[bool]) -> Paired:
    """Compare what two methods get right of the same test examples, in the same order.

    The interval of the difference is Wald's with Agresti and Min's half example more in every cell of the table.
    """
    one = sum(a and not b for a, b in zip(right, others, strict=True))
    other = sum(b and not a for a, b in zip(right, others, strict=True))
    n = len(right)
    b, c, total = one + 0.5, other + 0.5, n + 2.0
    middle = (b - c) / total
    half = 1.959964 * math.sqrt(max(0.0, b + c - (b - c) ** 2 / total)) / total
    ends = (max(-1.0, middle - half), min(1.0, middle + half))
    return Paired((one - other) / n if n else 0.0, ends if n else None, mcnemar(one, other))


def holm(ps: Sequence[float | None]) -> list[float | None]:
    """Return Holm's corrected values of ``ps``; None stays None, and counts as no test."""
    order = sorted((p, place) for place, p in enumerate(ps) if p is not None)
    corrected: list[float | None] = [None] * len(ps)
    largest = 0.0
    for rank, (p, place) in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p))
        corrected[place] = largest
    return corrected
