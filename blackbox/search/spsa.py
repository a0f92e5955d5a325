"""SPSA (Spall 1992, 1998): a gradient from two evaluations, whatever the dimension; and SPSA-GC, which corrects it.

SPSA-GC is BlackVIP's (Oh et al., CVPR 2023, arXiv:2303.14773, section 3.3), used again by Fed-BBPT
(Lin et al. 2023, arXiv:2310.03123).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from promptfed.blackbox.search.base import Matrix, Searcher, Vector, check_told
from promptfed.errors import ConfigError


class Spsa(Searcher[Vector]):
    """Descent along ``g = mean over probes of (f(x + c_k D) - f(x - c_k D)) / (2 c_k) * D``, D of random signs.

    With ``beta > 0`` (SPSA-GC) ``x`` is the look-ahead point ``theta + beta m``, then ``m <- beta m - a_k g`` and
    ``theta <- theta + m``, as in Nesterov's method; ``beta = 0`` is plain SPSA. Gains are Spall's:
    ``a_k = a / (k + 1 + stability)^0.602``, ``c_k = c / (k + 1)^0.101``, k from 0; ``stability`` is his A, about a
    tenth of the expected number of steps. ``clip`` bounds the norm of g.

    Its whole state is ``theta``, ``momentum`` ``(d,)`` and ``k``: hand them to a new one to go on.

    A pair in which one value is not finite is left out: as a difference, even "worst of all" would be a made-up slope.
    """

    def __init__(
        self,
        theta: Vector,
        stream: np.random.Generator,
        *,
        a: float,
        c: float,
        stability: float = 0.0,
        probes: int = 1,
        beta: float = 0.0,
        clip: float | None = None,
        momentum: Vector | None = None,
        k: int = 0,
    ) -> None:
        for name, value in {"a": a, "c": c, "clip": 1.0 if clip is None else clip, "probes": probes}.items():
            if not (math.isfinite(value) and value > 0):
                raise ConfigError(f"{name} must be positive and finite, not {value}")
        if not 0 <= beta < 1 or stability < 0 or k < 0:
            raise ConfigError(f"0 <= beta < 1, stability >= 0 and k >= 0; not {beta}, {stability} and {k}")
        self.theta = np.array(theta, dtype=np.float64)
        self.momentum = np.zeros_like(self.theta) if momentum is None else np.array(momentum, dtype=np.float64)
        if self.theta.ndim != 1 or self.momentum.shape != self.theta.shape:
            raise ConfigError(
                f"theta {self.theta.shape} and momentum {self.momentum.shape} must be equally long vectors"
            )
        self.a, self.c, self.stability, self.probes = a, c, stability, probes
        self.beta, self.clip, self.k, self.stream = beta, clip, k, stream
        self._directions: list[Vector] = []
        self._probes: dict[bytes, tuple[int, int]] = {}  # candidate -> its direction, and 0 for plus or 1 for minus

    @property
    def a_k(self) -> float:
        """Return the step size of the next tell."""
        return float(self.a / (self.k + 1 + self.stability) ** 0.602)

    @property
    def c_k(self) -> float:
        """Return the distance of the next candidates from the point between them, in each coordinate."""
        return float(self.c / (self.k + 1) ** 0.101)

    def ask(self, n: int | None = None) -> list[Vector]:
        """Return ``2 * probes`` points ``(d,)``, or an even ``n``: plus, minus, plus, minus; asking again adds some."""
        n = 2 * self.probes if n is None else n
        if n % 2:
            raise ValueError(f"SPSA asks for points in pairs, so not for {n}")
        candidates: list[Vector] = []
        for _ in range(n // 2):
            direction = self.stream.choice([-1.0, 1.0], size=self.theta.size)
            for side, sign in enumerate((1, -1)):
                candidates.append(self.theta + self.beta * self.momentum + sign * self.c_k * direction)
                self._probes[candidates[-1].tobytes()] = len(self._directions), side
            self._directions.append(direction)
        return candidates

    def tell(self, candidates: Sequence[Vector], fitness: Sequence[float]) -> None:
        """Take one step, from every complete pair; without one, only the points to ask for change."""
        check_told(candidates, fitness)
        values = np.full((len(self._directions), 2), np.nan)
        for candidate, value in zip(candidates, fitness, strict=True):
            index = self._probes.get(np.asarray(candidate, dtype=np.float64).tobytes())
            if index is None:
                raise ValueError("SPSA was told about a point that it did not ask for since the last tell")
            values[index] = value
        paired = np.isfinite(values).all(axis=1)
        if paired.any():
            gradient = estimate(values[paired, 0], values[paired, 1], np.array(self._directions)[paired], self.c_k)
            norm = float(np.linalg.norm(gradient))
            if self.clip is not None and norm > self.clip:
                gradient *= self.clip / norm
            self.momentum = self.beta * self.momentum - self.a_k * gradient
            self.theta = self.theta + self.momentum
            self.k += 1
        self._directions, self._probes = [], {}

    def best(self) -> Vector:
        """Return ``theta`` ``(d,)``: the candidates are probes to both sides, better ones are so by chance."""
        return self.theta.copy()

    def stop(self) -> dict[str, object]:
        """Return nothing: the gains fall, but no number of steps is enough by itself."""
        return {}

    def arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        """Return ``theta``, ``momentum`` ``(d,)`` float64 and ``k`` ``()`` int64."""
        return {"theta": self.theta, "momentum": self.momentum, "k": np.array(self.k, dtype=np.int64)}


def estimate(plus: Vector, minus: Vector, directions: Matrix, c: float) -> Vector:
    """Return the gradient ``(d,)`` from values ``(probes,)`` at ``x + c D`` and ``x - c D``, signs D ``(probes, d)``.

    Spall divides by each entry of D; entries of +1 and -1 are their own inverses.
    """
    slopes = (plus - minus) / (2 * c)
    result: Vector = (slopes[:, None] * directions).mean(axis=0)
    return result
