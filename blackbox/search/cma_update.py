"""One CMA-ES update as a pure function on evaluated points; FedBPT's server keeps vectors, no search object.

Equations and learning rates: Hansen, The CMA Evolution Strategy: A Tutorial (2016, v2 2023, arXiv:1604.00772),
figure 6 and table 1, without negative weights. Diagonal case: Ros and Hansen, sep-CMA-ES (PPSN 2008).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from promptfed.blackbox.search.base import Matrix, Vector, ranks
from promptfed.errors import ConfigError


@dataclass(frozen=True, eq=False)
class Distribution:
    """``N(mean, sigma^2 C)`` and two evolution paths; C is ``diag(deviations^2)`` or ``covariance``, one of them."""

    mean: Vector
    """``(d,)``."""
    sigma: float
    deviations: Vector | None
    """``(d,)``: square roots of the diagonal of a diagonal C."""
    covariance: Matrix | None
    """``(d, d)``: a full C."""
    path_sigma: Vector
    """``(d,)``: p_sigma, the steps of the mean in units in which all coordinates are alike; its length steers sigma."""
    path_c: Vector
    """``(d,)``: p_c, the steps of the mean in units of sigma; its outer product is the rank-one update of C."""
    generation: int = 0

    def __post_init__(self) -> None:
        if (self.deviations is None) == (self.covariance is None):
            raise ConfigError("a Distribution needs deviations (diagonal) or covariance (full), and not both")

    @classmethod
    def start(
        cls, mean: Vector, sigma: float, *, deviations: Vector | None = None, covariance: Matrix | None = None
    ) -> Distribution:
        """Return a distribution without a past; without deviations and covariance a diagonal one of ones."""
        mean = np.array(mean, dtype=np.float64)
        if deviations is None and covariance is None:
            deviations = np.ones_like(mean)
        zeros = np.zeros_like(mean)
        return cls(mean, float(sigma), _float64(deviations), _float64(covariance), zeros, zeros.copy())

    def arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        """Return all parts as named arrays, for a checkpoint: float64, and the generation as int64 ``()``."""
        shape = {"deviations": self.deviations} if self.deviations is not None else {"covariance": self.covariance}
        return {
            "mean": self.mean,
            "sigma": np.array(self.sigma),
            **{name: value for name, value in shape.items() if value is not None},
            "path_sigma": self.path_sigma,
            "path_c": self.path_c,
            "generation": np.array(self.generation, dtype=np.int64),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[np.generic]]) -> Distribution:
        """Return the distribution of ``arrays``; scalars may also be of shape ``(1,)``."""
        return cls(
            mean=np.array(arrays["mean"], dtype=np.float64),
            sigma=float(np.reshape(arrays["sigma"], ())),
            deviations=_float64(arrays.get("deviations")),
            covariance=_float64(arrays.get("covariance")),
            path_sigma=np.array(arrays["path_sigma"], dtype=np.float64),
            path_c=np.array(arrays["path_c"], dtype=np.float64),
            generation=int(np.reshape(arrays["generation"], ())),
        )


@dataclass(frozen=True)
class Rates:
    """Learning rates of a ``d``-dimensional CMA-ES whose weights have the effective number ``mueff``."""

    c_sigma: float
    d_sigma: float
    c_c: float
    c_1: float
    c_mu: float

    @classmethod
    def default(cls, d: int, mueff: float, *, diagonal: bool) -> Rates:
        """Return table 1 of the tutorial; a diagonal C has d numbers to learn, and rates (d + 2)/3 times higher."""
        c_sigma = (mueff + 2) / (d + mueff + 5)
        faster = (d + 2) / 3 if diagonal else 1.0
        c_1 = min(1.0, faster * 2 / ((d + 1.3) ** 2 + mueff))
        return cls(
            c_sigma=c_sigma,
            d_sigma=1 + 2 * max(0.0, math.sqrt((mueff - 1) / (d + 1)) - 1) + c_sigma,
            c_c=(4 + mueff / d) / (d + 4 + 2 * mueff / d),
            c_1=c_1,
            c_mu=min(1 - c_1, faster * 2 * (0.25 + mueff + 1 / mueff - 2) / ((d + 2) ** 2 + mueff)),
        )


def log_rank_weights(k: int) -> Vector:
    """Return ``(k,)`` weights, best first: ``ln((k + 1)/2) - ln(rank)`` for the better half, 0 for the rest.

    They sum to 1; a single point has all of it.
    """
    if k < 1:
        raise ValueError(f"weights need one point at least, not {k}")
    better = max(1, k // 2)
    weights = np.zeros(k)
    weights[:better] = math.log((k + 1) / 2) - np.log(np.arange(1, better + 1)) if k > 1 else 1.0
    weights /= weights.sum()
    return weights


def weights_by_rank(fitness: Sequence[float] | Vector) -> Vector:
    """Return ``(k,)`` log-rank weights in the order of ``fitness``; equals share, so the order does not matter."""
    return shared_by_equals(fitness, log_rank_weights(len(fitness)))


def shared_by_equals(fitness: Sequence[float] | Vector, by_rank: Vector) -> Vector:
    """Return ``(k,)`` weights in the order of ``fitness`` from those ``by_rank``; equals get their mean."""
    positions = ranks(fitness)
    weights = np.empty(len(positions))
    for value in np.unique(positions):
        equal = positions == value
        first = round(value - (equal.sum() - 1) / 2)
        weights[equal] = by_rank[first : first + equal.sum()].mean()
    return weights


def update(
    distribution: Distribution,
    points: Matrix,
    weights: Vector,
    *,
    floor: float = 0.0,
    most: float = math.inf,
    rates: Rates | None = None,
) -> Distribution:
    """Return the distribution after ``points``.

    Works for any ``k >= 1`` and does not depend on the order of the points, to the last bit. ``sigma`` changes by a
    factor of e at most (as in pycma: few points may lie far away).

    Args:
        distribution: The distribution before.
        points: ``(k, d)``.
        weights: ``(k,)``, not negative, scaled to sum to 1.
        floor: Lower bound of ``sigma``.
        most: Upper bound of ``sigma``.
        rates: Learning rates; by default ``Rates.default``.
    """
    d = distribution.mean.size
    points, weights = _in_order(points, weights, d)
    if not 0 <= floor <= most:
        raise ConfigError(f"sigma cannot be between floor={floor} and most={most}: 0 <= floor <= most")
    mueff = float(1 / (weights**2).sum())
    rates = rates or Rates.default(d, mueff, diagonal=distribution.covariance is None)
    generation = distribution.generation + 1

    steps = (points - distribution.mean) / distribution.sigma  # y_i (k, d)
    step = weights @ steps  # y_w (d,)
    c, path = rates.c_sigma, distribution.path_sigma
    path_sigma = (1 - c) * path + math.sqrt(c * (2 - c) * mueff) * _whitened(step, distribution)
    length = float(np.linalg.norm(path_sigma)) / _expected_length(d)
    sigma = distribution.sigma * math.exp(min(1.0, c / rates.d_sigma * (length - 1)))

    # Stall p_c while sigma grows fast: else C would take in the growth as well (h_sigma).
    moves = length / math.sqrt(1 - (1 - c) ** (2 * generation)) < 1.4 + 2 / (d + 1)
    cc = rates.c_c
    path_c = (1 - cc) * distribution.path_c + (math.sqrt(cc * (2 - cc) * mueff) * step if moves else 0.0)
    variance_gap = 0.0 if moves else cc * (2 - cc)  # variance that the stalled path lacks
    keep = 1 + rates.c_1 * variance_gap - rates.c_1 - rates.c_mu
    deviations = covariance = None
    if distribution.deviations is not None:
        rank_mu = weights @ steps**2
        deviations = np.sqrt(keep * distribution.deviations**2 + rates.c_1 * path_c**2 + rates.c_mu * rank_mu)
    if distribution.covariance is not None:
        outer = rates.c_1 * np.outer(path_c, path_c) + rates.c_mu * (steps.T * weights) @ steps
        covariance = keep * distribution.covariance + outer
        covariance = (covariance + covariance.T) / 2
    return Distribution(
        mean=distribution.mean + distribution.sigma * step,
        sigma=min(max(sigma, floor), most),
        deviations=deviations,
        covariance=covariance,
        path_sigma=path_sigma,
        path_c=path_c,
        generation=generation,
    )


def _in_order(points: Matrix, weights: Vector, d: int) -> tuple[Matrix, Vector]:
    """Check both, and sort by weight, then by the points: sums then have the same bits in any order."""
    points, weights = np.asarray(points, dtype=np.float64), np.asarray(weights, dtype=np.float64)
    if points.ndim != 2 or points.shape[1] != d or weights.shape != points.shape[:1] or not len(points):
        raise ValueError(f"points {points.shape} and weights {weights.shape} do not fit a mean of {d} numbers")
    if not np.isfinite(points).all():
        raise ValueError("points must be finite: leave out those that are not")
    if not (np.isfinite(weights).all() and (weights >= 0).all() and weights.sum() > 0):
        raise ValueError("weights must be finite and not negative, and one of them positive")
    order = np.lexsort((*points.T, -weights))
    points, weights = points[order], weights[order]
    return points, weights / weights.sum()


def _whitened(step: Vector, distribution: Distribution) -> Vector:
    """Return ``C^(-1/2) step`` ``(d,)``, with the symmetric root."""
    if distribution.covariance is not None:
        values, axes = np.linalg.eigh(distribution.covariance)
        result: Vector = axes @ ((axes.T @ step) / np.sqrt(values))
        return result
    if distribution.deviations is not None:
        return step / distribution.deviations
    raise AssertionError("a Distribution has one of the two")


def _expected_length(d: int) -> float:
    """Return the expected length of a standard normal vector, to within a few parts in a thousand."""
    return math.sqrt(d) * (1 - 1 / (4 * d) + 1 / (21 * d**2))


def _float64(values: npt.NDArray[np.generic] | None) -> Vector | None:
    return None if values is None else np.array(values, dtype=np.float64)
