"""95 % intervals of accuracies, and tests of whether an accuracy says anything. No draw is needed for any of them.

An accuracy over test items gets Wilson's score interval. A mean over clients gets Student's t interval over the
clients' accuracies, cut to 0..1: it says how far another handful of such clients would lie from these. It is never
narrower than Wilson's over all the clients' items, because a few clients may be alike by chance.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist, fmean, stdev

LEVEL = 0.95
Z = NormalDist().inv_cdf((1 + LEVEL) / 2)
T_QUANTILES = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281)
"""97.5 % quantiles of Student's t with 1 to 10 degrees of freedom."""

Interval = tuple[float, float]
"""Lower and upper end, in 0..1."""


def wilson_interval(accuracy: float, items: int) -> Interval:
    """Wilson's score interval of an ``accuracy`` in 0..1 over ``items`` test items; all of 0..1 for none.

    For a mean over several prompts on the same items it is at least as wide as need be.
    """
    if items < 1:
        return 0.0, 1.0
    share = Z**2 / items
    middle = (accuracy + share / 2) / (1 + share)
    half = Z / (1 + share) * math.sqrt(accuracy * (1 - accuracy) / items + share / (4 * items))
    return max(0.0, middle - half), min(1.0, middle + half)


def mean_interval(accuracies: Sequence[float], items: int) -> Interval | None:
    """Return the interval of the mean of clients' ``accuracies``, cut to 0..1; None without a client.

    Args:
        accuracies: One of each client, in 0..1.
        items: Test items of all these clients together; one that several clients share counts once.

    Returns:
        The smallest interval around Student's t over the clients and Wilson's over the items; the latter alone for a
        single client.
    """
    if not accuracies:
        return None
    middle = fmean(accuracies)
    low, high = wilson_interval(middle, items)
    if len(accuracies) == 1:
        return low, high
    half = t_quantile(len(accuracies) - 1) * stdev(accuracies) / math.sqrt(len(accuracies))
    return max(0.0, min(low, middle - half)), min(1.0, max(high, middle + half))


def t_quantile(freedom: int) -> float:
    """97.5 % quantile of Student's t with ``freedom`` degrees of freedom, to four digits."""
    if freedom <= len(T_QUANTILES):
        return T_QUANTILES[freedom - 1]
    # The expansion of Cornish and Fisher about the normal quantile (Abramowitz and Stegun 26.7.5).
    z, n = Z, float(freedom)
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / n + second / n**2 + third / n**3


def guessing_probability(right: int, items: int, chance: float) -> float:
    """Probability that a guesser who is right with ``chance`` gets ``right`` or more of ``items`` right."""
    if right <= 0:
        return 1.0
    if not 0 < chance < 1:
        return float(chance >= 1)
    ways = math.lgamma(items + 1)
    terms = (
        ways
        - math.lgamma(k + 1)
        - math.lgamma(items - k + 1)
        + k * math.log(chance)
        + (items - k) * math.log1p(-chance)
        for k in range(right, items + 1)
    )
    return min(1.0, math.fsum(math.exp(term) for term in terms))


def exact_lower_bound(count: int, trials: int, error: float = 0.025) -> float:
    """Return the lower bound of a share of which ``count`` of ``trials`` were seen (Clopper and Pearson 1934).

    The truth lies below it with a chance of ``error`` at most.
    """
    low, high = 0.0, 1.0
    for _ in range(60 if count else 0):
        share = (low + high) / 2
        low, high = (low, share) if guessing_probability(count, trials, share) > error else (share, high)
    return low
