"""CMA-ES (Hansen 2016, arXiv:1604.00772) and sep-CMA-ES (Ros and Hansen 2008) by pycma, without its global habits."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np

from promptfed.blackbox.search.base import Matrix, Searcher, Vector, check_told, finite_fitness, optional
from promptfed.errors import ConfigError, unknown_name

StepSize = Literal["auto", "csa", "tpa"]

FULL_UP_TO = 200
"""Dimensions up to which a full covariance is the default; above it is learned too slowly to be worth d^2 numbers."""
TPA_FROM, TPA_POPSIZE = 300, 5
"""Dimensions from which on, and population with which at least, sigma adapts by two points: pycma's TPA_dimension."""
PATIENCE = 50
"""Generations in a row with (nearly) flat, or with no finite, fitness after which it no longer pays to go on."""


class Normal:
    """Standard normal draws for pycma, whose default generator is global. At module level because pycma pickles it."""

    def __init__(self, stream: np.random.Generator) -> None:
        self.stream = stream

    def __call__(self, *shape: int) -> Matrix:
        return self.stream.standard_normal(shape)


class CmaEs(Searcher[Vector]):
    """Search with draws from ``N(mean, sigma^2 C)``; mean, sigma and C follow the better half of them.

    ``C`` starts as ``diag(deviations^2)`` ``(d,)`` and stays diagonal, or as ``covariance`` ``(d, d)``, or as the
    identity (full for ``d <= 200``, else diagonal).

    A generation is ``popsize`` candidates. They may be told in any order and any portions; the distribution moves once
    that many have been told, those beyond included. A generation without a single finite fitness moves nothing.

    ``step_size`` is how sigma adapts: "csa" by the length of the mean's path; "tpa" by comparing a longer with a
    shorter last step, which costs two candidates of each generation and is much faster in high dimensions; "auto" is
    pycma's choice, "tpa" from 300 dimensions on (and with a popsize of 5, so that others are left).

    Differs from pycma's defaults: the stopping tolerances on fitness are off except ``tolflatfitness``, which is
    patient, since accuracies are flat much of the time.
    """

    def __init__(
        self,
        mean: Vector,
        sigma: float,
        stream: np.random.Generator,
        *,
        popsize: int | None = None,
        deviations: Vector | None = None,
        covariance: Matrix | None = None,
        step_size: StepSize = "auto",
    ) -> None:
        cma = optional("cma")
        if step_size not in get_args(StepSize):
            raise unknown_name("step_size", step_size, get_args(StepSize))
        self._start = np.array(mean, dtype=np.float64)
        if self._start.ndim != 1 or not self._start.size or not np.isfinite(self._start).all():
            raise ConfigError(f"mean must be a vector of finite numbers, not of shape {self._start.shape}")
        if not (math.isfinite(sigma) and sigma > 0):
            raise ConfigError(f"sigma must be positive and finite, not {sigma}")
        d = self._start.size
        self.popsize = 4 + int(3 * math.log(d)) if popsize is None else int(popsize)
        if self.popsize < 2:
            raise ConfigError(f"popsize must be 2 or more, not {self.popsize}: one candidate cannot be ranked")
        self._root = _root(covariance, d)
        stds = _checked_deviations(deviations, d)
        if stds is not None and self._root is not None:
            raise ConfigError("give deviations (diagonal CMA-ES) or covariance (full), not both")
        roomy = self.popsize >= TPA_POPSIZE
        if step_size == "tpa" and not roomy:
            raise ConfigError(f"step_size='tpa' needs a popsize of {TPA_POPSIZE} or more, not {self.popsize}")
        self.two_point = step_size == "tpa" or (step_size == "auto" and d >= TPA_FROM and roomy)
        self.diagonal = stds is not None or (self._root is None and d > FULL_UP_TO)
        options = {
            "popsize": self.popsize,
            "CMA_diagonal": self.diagonal,
            "CMA_stds": stds,
            "AdaptSigma": _quiet_tpa(cma) if self.two_point else cma.sigma_adaptation.CMAAdaptSigmaCSA,
            "seed": np.nan,  # leaves numpy's global generator alone
            "randn": Normal(stream),
            "verbose": -9,
            "verb_log": 0,
            "signals_filename": "",  # else options are read from such a file in the working directory; None warns
            "conditioncov_alleviate": [1e8, np.inf],  # the second would make es.mean speak other coordinates
            "tolfun": 0,
            "tolfunhist": 0,
            "tolflatfitness": PATIENCE,
        }
        # Mirrored points that were asked for in vain (no fitness, or points from elsewhere) are no bug, as it suspects.
        warnings.filterwarnings("ignore", category=cma.evolution_strategy.InjectionWarning)
        start = np.zeros(d) if self._root is not None else self._start
        self._es = cma.CMAEvolutionStrategy(start, float(sigma), options)
        self._points: list[Vector] = []  # of this generation, in pycma's coordinates and order
        self._places: dict[bytes, int] = {}  # candidate as sent out -> its place among the points
        self._values: dict[int, float] = {}  # place -> fitness, as far as told
        self._foreign_points: list[tuple[Vector, float]] = []  # told, but never asked for
        self._handed_out = 0
        self._generations_without_fitness = 0

    def ask(self, n: int | None = None) -> list[Vector]:
        """Return ``n`` new candidates ``(d,)``; by default those that the generation lacks, untold ones first."""
        self._draw()
        places = [i for i in range(self._handed_out, len(self._points)) if i not in self._values][:n]
        if n is None and not places:
            places = [i for i in range(len(self._points)) if i not in self._values]
        while n is not None and len(places) < n:
            places.append(len(self._points))
            self._points += self._es.ask(1)
        self._handed_out = max(self._handed_out, *(i + 1 for i in places), 0)
        candidates = [self._outward(self._points[i]) for i in places]
        self._places.update((x.tobytes(), i) for x, i in zip(candidates, places, strict=True))
        return candidates

    def tell(self, candidates: Sequence[Vector], fitness: Sequence[float]) -> None:
        check_told(candidates, fitness)
        for candidate, value in zip(candidates, fitness, strict=True):
            x = np.array(candidate, dtype=np.float64)
            if x.shape != self._start.shape:
                raise ValueError(f"a candidate of shape {x.shape} was told, expected {self._start.shape}")
            if (index := self._places.get(x.tobytes())) is not None:
                self._values[index] = float(value)
            else:
                self._foreign_points.append((self._inward(x), float(value)))
        if len(self._values) + len(self._foreign_points) >= self.popsize:
            self._move()

    def _draw(self) -> None:
        """Draw a generation, unless there is one. The two points of "tpa" come first, and pycma returns them once."""
        if not self._points:
            self._points = list(self._es.ask())
        while len(self._points) < self.popsize:
            self._points += self._es.ask(1)

    def _move(self) -> None:
        self._draw()  # pycma refuses a tell before an ask, even when all points come from elsewhere
        probes = self._points[:2] if self.two_point else []
        # In pycma's order, which says which ones the two points of "tpa" are; they count as the worst if missing.
        fitness_at = {**dict.fromkeys(range(len(probes)), math.nan), **self._values}
        points = [self._points[index] for index in sorted(fitness_at)] + [point for point, _ in self._foreign_points]
        values = [fitness_at[index] for index in sorted(fitness_at)] + [value for _, value in self._foreign_points]
        if np.isfinite(values).any():
            self._es.tell([point.copy() for point in points], finite_fitness(values).tolist())
            self._points, self._generations_without_fitness = [], 0
        else:
            self._points, self._generations_without_fitness = probes, self._generations_without_fitness + 1
        self._places, self._values, self._foreign_points, self._handed_out = {}, {}, [], 0

    def best(self) -> Vector:
        """Return the mean ``(d,)``.

        It is better than the best candidate, which under noise is mostly the luckiest one.
        """
        return self.mean

    def stop(self) -> dict[str, object]:
        """Return pycma's reasons, and ``no finite fitness`` with the number of generations in a row without one."""
        reasons: dict[str, object] = dict(self._es.stop())
        if self._generations_without_fitness > PATIENCE:
            reasons["no finite fitness"] = self._generations_without_fitness
        return reasons

    @property
    def mean(self) -> Vector:
        """Return the mean ``(d,)``."""
        return self._outward(self._es.mean)

    @property
    def sigma(self) -> float:
        return float(self._es.sigma)

    @property
    def deviations(self) -> Vector:
        """Return ``(d,)``, the roots of C's diagonal; times ``sigma``, each coordinate's standard deviation."""
        if self._root is not None:
            return np.sqrt(np.diag(self.covariance))
        return np.asarray(self._es.stds / self._es.sigma, dtype=np.float64)

    @property
    def covariance(self) -> Matrix:
        """Return C ``(d, d)``, without ``sigma^2``; of the full strategy only."""
        if self.diagonal:
            raise ConfigError("diagonal CMA-ES keeps no covariance matrix: read deviations")
        inner: Matrix = self._es.sigma_vec.transform_covariance_matrix(self._es.sm.covariance_matrix)
        result = inner if self._root is None else self._root @ inner @ self._root.T
        return (result + result.T) / 2

    def _outward(self, point: Vector) -> Vector:
        """Map pycma's coordinates y to ours: ``x = start + A y`` where C started as ``A A^T``."""
        y = np.array(point, dtype=np.float64)
        return y if self._root is None else self._start + self._root @ y

    def _inward(self, x: Vector) -> Vector:
        """Map back, to within rounding; own candidates are not converted but looked up."""
        if self._root is None:
            return x
        return np.asarray(np.linalg.solve(self._root, x - self._start), dtype=np.float64)


def _quiet_tpa(cma: Any) -> type:
    """Return pycma's two-point adaptation without its self-test, which draws from numpy's global generator."""
    return type("QuietTPA", (cma.sigma_adaptation.CMAAdaptSigmaTPA,), {"check_consistency": lambda self, es: None})


def _root(covariance: Matrix | None, d: int) -> Matrix | None:
    """Return the Cholesky factor ``(d, d)``."""
    if covariance is None:
        return None
    if np.shape(covariance) != (d, d):
        raise ConfigError(f"covariance must be of shape {(d, d)} like the mean, not {np.shape(covariance)}")
    try:
        return np.linalg.cholesky(np.asarray(covariance, dtype=np.float64))
    except np.linalg.LinAlgError as error:
        raise ConfigError(f"covariance must be symmetric and positive definite: {error}") from error


def _checked_deviations(deviations: Vector | None, d: int) -> Vector | None:
    if deviations is None:
        return None
    array = np.array(deviations, dtype=np.float64)
    if array.shape != (d,) or not (np.isfinite(array) & (array > 0)).all():
        raise ConfigError(f"deviations must be {d} positive finite numbers, one for each coordinate")
    return array
