"""The interface of search strategies: ask for candidates, evaluate them elsewhere, tell their fitness."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Generic, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from promptfed.errors import MissingPackageError

Vector: TypeAlias = npt.NDArray[np.float64]
"""``(d,)`` float64."""
Matrix: TypeAlias = npt.NDArray[np.float64]
"""``(rows, columns)`` float64."""
Tokens: TypeAlias = tuple[int, ...]
"""Token indices, one for each position of a prompt."""

P = TypeVar("P")


class Searcher(ABC, Generic[P]):
    """Search strategy over points ``P``: a ``Vector`` or ``Tokens``.

    It never calls the objective: the caller decides where, in what batches and at what price candidates are evaluated.
    It draws from its own stream alone.
    """

    @abstractmethod
    def ask(self, n: int | None = None) -> list[P]:
        """Return the next candidates: a generation, or ``n``."""

    @abstractmethod
    def tell(self, candidates: Sequence[P], fitness: Sequence[float]) -> None:
        """Report the fitness of candidates, lower is better; a value that is not finite counts as the worst of all."""

    @abstractmethod
    def best(self) -> P:
        """Return the strategy's present recommendation; before the first tell, its start."""

    @abstractmethod
    def stop(self) -> dict[str, object]:
        """Return reasons to stop by name; empty while it pays to go on."""


def check_told(candidates: Sequence[object], fitness: Sequence[float]) -> None:
    """Raise ValueError unless every candidate has one fitness."""
    if len(candidates) != len(fitness):
        raise ValueError(f"{len(candidates)} candidates were told with {len(fitness)} fitness values")


def finite_fitness(fitness: Sequence[float] | Vector) -> Vector:
    """Replace values that are not finite by one worse than all finite ones; if none is finite, by zeros.

    The gap to the worst finite value is the range of the finite ones, so that strategies which use differences and not
    just ranks are not thrown off by it.
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
    """Return ``(n,)`` ranks, 0 for the best; equals share the mean of their ranks, so the order does not matter."""
    _, groups, counts = np.unique(finite_fitness(fitness), return_inverse=True, return_counts=True)
    first = np.cumsum(counts) - counts
    shared: Vector = (first + (counts - 1) / 2)[groups]
    return shared


def optional(package: str) -> Any:
    """Import an optional package on first use.

    Raises:
        MissingPackageError: It is missing; the message says how to install it.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise MissingPackageError(
            f"this search strategy needs the package '{package}' ({error}); install: pip install 'promptfed[blackbox]'"
        ) from error
