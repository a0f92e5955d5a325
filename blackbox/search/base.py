"""The seam of all search strategies: ask for candidates, evaluate them elsewhere, tell what they cost."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Generic, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from promptfed.errors import ConfigError

Vector: TypeAlias = npt.NDArray[np.float64]
"""``(d,)`` float64."""
Matrix: TypeAlias = npt.NDArray[np.float64]
"""``(rows, columns)`` float64."""
Tokens: TypeAlias = tuple[int, ...]
"""Token indices, one for each position of a prompt."""

P = TypeVar("P")


class Searcher(ABC, Generic[P]):
    """A search strategy over points ``P``: a ``Vector`` or ``Tokens``.

    It never calls the objective: who asks decides where, in what batches and at what price candidates are evaluated.
    It draws from the stream it was given and from nothing else.
    """

    @abstractmethod
    def ask(self, n: int | None = None) -> list[P]:
        """The next candidates: as many as the strategy likes (a generation), or ``n``."""

    @abstractmethod
    def tell(self, candidates: Sequence[P], fitness: Sequence[float]) -> None:
        """What candidates are worth, lower is better; one that is not a finite number counts as the worst of all."""

    @abstractmethod
    def best(self) -> P:
        """What the strategy recommends now; before the first tell, the point it started from."""

    @abstractmethod
    def stop(self) -> dict[str, object]:
        """Reasons to stop by name; empty while it pays to go on."""


def check_told(candidates: Sequence[object], fitness: Sequence[float]) -> None:
    """Raises ValueError unless every candidate has one fitness."""
    if len(candidates) != len(fitness):
        raise ValueError(f"{len(candidates)} candidates were told with {len(fitness)} fitness values")


def finite_fitness(fitness: Sequence[float] | Vector) -> Vector:
    """``(n,)`` fitness in which everything not finite is worse than all that is finite; if nothing is, all zeros.

    The gap to the worst finite value is the range of the finite ones, so that strategies which use differences
    and not just ranks are not thrown off by it.
    """
    values = np.array(fitness, dtype=np.float64).reshape(-1)
    finite = np.isfinite(values)
    if finite.all():
        return values
    if not finite.any():
        return np.zeros_like(values)
    best, worst = float(values[finite].min()), float(values[finite].max())
    with np.errstate(over="ignore"):
        worse = worst + ((worst - best) or max(1.0, abs(worst)))
    values[~finite] = min(worse, float(np.finfo(np.float64).max))  # a sum past the largest number would be inf again
    return values


def ranks(fitness: Sequence[float] | Vector) -> Vector:
    """``(n,)`` ranks, 0 for the best; equals share the mean of their ranks, so the order of candidates has no say."""
    _, place, counts = np.unique(finite_fitness(fitness), return_inverse=True, return_counts=True)
    first = np.cumsum(counts) - counts
    shared: Vector = (first + (counts - 1) / 2)[place]
    return shared


def optional(package: str) -> Any:
    """An optional package, imported when it is first needed. Raises ConfigError that says how to install it."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ConfigError(
            f"this search strategy needs the package '{package}' ({error}); install: pip install 'promptfed[blackbox]'"
        ) from error
