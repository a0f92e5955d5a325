"""What a private run has spent: (epsilon, delta) of its releases, by dp-accounting (pip install 'promptfed[dp]').

A release is a sum of clipped changes with Gaussian noise, over a secret Poisson sample of the clients. Numerical
privacy-loss distributions (PLD, with pessimistic rounding) say what is reported. Renyi DP is a bound from a second
road, 8 to 20 % above it, and only for adjacency by adding or removing: under replace-one, dp-accounting 0.6.0's takes
half the sensitivity (google/differential-privacy#378). The central-limit approximation (GDP) is not offered, as it
errs on the unsafe side: 4.01 for a true 5.15.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np

from promptfed.errors import ConfigError, MissingPackageError
from promptfed.stderr_log import quieted

Adjacency = Literal["add-remove", "replace-one"]
INTERVAL = 1e-4
"""Width of the cells of privacy loss."""
COARSE_INTERVAL = 1e-3
"""Width where a bound from above will do; it is within 1 % for all rows of the tests."""
MOST_CELLS = 1e7
"""The cells widen where a run without noise to speak of would need more."""
LARGEST_SAMPLED = 1e5
"""Above this epsilon without amplification it is said as it is: no promise, and hours of work to say how little."""
LARGEST_MULTIPLIER = 1e12
"""What is larger, or smaller than one over it, has no square to speak of."""
PRECISION = 1e-4
"""How far above the least noise multiplier a calibrated one may be, relative to it."""
LARGEST_DEFAULT_DELTA = 1e-3


@dataclass(frozen=True)
class Release:
    """``count`` noised sums alike: noise of standard deviation ``multiplier * clip``, each client in by a coin.

    ``probability`` 1 is everybody, without amplification.
    """

    multiplier: float
    probability: float = 1.0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.multiplier < math.inf:
            raise ConfigError(f"a noise multiplier is a positive number, not {self.multiplier}")
        if not 1 / LARGEST_MULTIPLIER <= self.multiplier <= LARGEST_MULTIPLIER:
            raise ConfigError(
                f"a noise multiplier of {self.multiplier:g} is none to count with: {1 / LARGEST_MULTIPLIER:g} to "
                f"{LARGEST_MULTIPLIER:g} are"
            )
        if not 0 < self.probability <= 1:
            raise ConfigError(f"a probability of taking part is above 0 and at most 1, not {self.probability}")
        if self.count < 1:
            raise ConfigError(f"a number of releases is 1 or more, not {self.count}")


def check_delta(delta: float, clients: int) -> None:
    """Raise ConfigError if ``delta`` is above 1 / (2 ``clients``): it is the chance that a client is given away."""
    if not 0 < delta <= 1 / (2 * clients):
        raise ConfigError(
            f"delta {delta:g} does not protect {clients} clients: above 0 and at most 1 / (2 x {clients}) = "
            f"{1 / (2 * clients):g}; {default_delta(clients):g} is usual"
        )


def default_delta(clients: int) -> float:
    """Return 1 / (100 ``clients``), at most 0.001: a hundredth of what publishing one client at random would be."""
    return min(LARGEST_DEFAULT_DELTA, 1 / (100 * clients))


def epsilon(releases: Sequence[Release], delta: float, adjacency: Adjacency = "add-remove") -> float:
    """Return epsilon of all ``releases`` together at ``delta``, by PLD; exact where everybody takes part.

    Args:
        releases: In any order; those alike may come apart.
        delta: In 0..1.
        adjacency: Whether one client more or less is not to be noticed, or another one in its place.
    """
    return _epsilon(tuple(releases), delta, INTERVAL, adjacency)


def epsilon_rdp(releases: Sequence[Release], delta: float) -> float:
    """Return a looser bound from above by Renyi DP (Mironov et al. 2019); by adding or removing only."""
    if not releases:
        return 0.0
    dp = _dp_accounting()
    from dp_accounting import rdp

    with _quiet():
        accountant = rdp.RdpAccountant(neighboring_relation=dp.NeighboringRelation.ADD_OR_REMOVE_ONE)
        for release in releases:
            accountant.compose(_event(release))
        return float(accountant.get_epsilon(delta))


def noise_multiplier(epsilon: float, delta: float, probability: float, count: int) -> float:
    """Return the least noise multiplier, to four figures, with which ``count`` releases spend at most ``epsilon``."""
    if not 0 < epsilon < math.inf:
        raise ConfigError(f"epsilon is a positive number, not {epsilon}")
    high = _rounded_up(_dp_accounting().get_sigma_gaussian(epsilon, delta) * math.sqrt(count))
    if Release(high, probability, count).probability == 1:
        return high

    def excess(log_multiplier: float) -> float:
        release = Release(math.exp(log_multiplier), probability, count)
        return math.log(max(_epsilon((release,), delta, COARSE_INTERVAL), 1e-9) / epsilon)

    from scipy.optimize import brentq

    low = math.log(high) - 0.5
    while excess(low) <= 0:
        low -= 0.5
    multiplier = _rounded_up(math.exp(brentq(excess, low, math.log(high), xtol=PRECISION / 2)))
    while excess(math.log(multiplier)) > 0:  # the root may lie half a tolerance on the wrong side
        multiplier = _rounded_up(multiplier * (1 + PRECISION))
    return multiplier


def _rounded_up(multiplier: float) -> float:
    unit = 10.0 ** (math.floor(math.log10(multiplier)) - 4)
    return float(f"{math.ceil(multiplier / unit) * unit:.6g}")


@lru_cache(maxsize=256)
def _epsilon(
    releases: tuple[Release, ...], delta: float, interval: float, adjacency: Adjacency = "add-remove"
) -> float:
    if not 0 < delta < 1:
        raise ConfigError(f"delta lies between 0 and 1, not {delta}")
    if not releases:
        return 0.0
    dp = _dp_accounting()
    half = 0.5 if adjacency == "replace-one" else 1.0
    scale = half / math.sqrt(sum(release.count / release.multiplier**2 for release in releases))
    with _quiet():
        unsampled = float(dp.get_epsilon_gaussian(scale, delta))
        if unsampled > LARGEST_SAMPLED or all(release.probability == 1 for release in releases):
            return unsampled
        from dp_accounting import pld

        relations = dp.NeighboringRelation
        relation = relations.REPLACE_ONE if adjacency == "replace-one" else relations.ADD_OR_REMOVE_ONE
        accountant = pld.PLDAccountant(relation, max(interval, unsampled / MOST_CELLS))
        for release in releases:
            accountant.compose(_event(release))
        return float(accountant.get_epsilon(delta))


def _event(release: Release) -> Any:
    dp = _dp_accounting()
    event = dp.GaussianDpEvent(release.multiplier)
    if release.probability < 1:
        event = dp.PoissonSampledDpEvent(release.probability, event)
    return dp.SelfComposedDpEvent(event, release.count)


def _dp_accounting() -> Any:
    try:
        import dp_accounting
    except ImportError:
        raise MissingPackageError(
            "privacy accounting needs dp-accounting, which is not installed: pip install 'promptfed[dp]'"
        ) from None
    return dp_accounting


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep warnings back: orders of Renyi DP left out, and logarithms of zero at vast epsilons, are no faults."""
    with quieted("absl", logging.ERROR), np.errstate(divide="ignore"):
        yield
