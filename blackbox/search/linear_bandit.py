"""A linear bandit with upper confidence bounds (LinUCB): rewards are linear in an arm's features, and sums say all."""

from __future__ import annotations

import math

import numpy as np

from promptfed.blackbox.search.base import Matrix, Vector

ROOT2 = math.sqrt(2)


class LinearBandit:
    """LinUCB (Li et al. 2010; Abbasi-Yadkori et al. 2011) over arms with ``features`` ``(arms, dim)``.

    With ``gram`` ``(dim, dim)``, the sum of ``u u'`` over all pulls, and ``moment`` ``(dim,)``, the sum of ``s u``::

        V = ridge I + gram,    theta = V^-1 moment,    next arm = argmax_p theta u_p + width sqrt(u_p' V^-1 u_p)

    Both are sums, so pulls of several parties add up. Noise may make ``gram`` indefinite: negative eigenvalues count
    as zero.
    """

    def __init__(self, features: Matrix, gram: Matrix, moment: Vector, ridge: float, width: float) -> None:
        self.features, self.gram, self.moment = features, gram.copy(), moment.copy()
        self.ridge, self.width = ridge, width

    def _eigen(self, expected: Matrix | None = None) -> tuple[Vector, Matrix]:
        """Return the eigenvalues ``(dim,)`` of V, all at least ``ridge``, and its eigenvectors ``(dim, dim)``."""
        values, vectors = np.linalg.eigh(self.gram if expected is None else self.gram + expected)
        return np.maximum(values, 0) + self.ridge, vectors

    def log_det(self) -> float:
        """Return ``log det V``."""
        return float(np.log(self._eigen()[0]).sum())

    def estimates(self) -> Vector:
        """Return ``theta u`` of each arm, ``(arms,)``."""
        values, vectors = self._eigen()
        means: Vector = self.features @ (vectors @ ((self.moment @ vectors) / values))
        return means

    def deviations(self, expected: Matrix | None = None) -> Vector:
        """Return ``sqrt(u' V^-1 u)`` of each arm, ``(arms,)``.

        Args:
            expected: The sum of ``u u'`` over pulls of others whose rewards are still to come: they narrow it already.
        """
        values, vectors = self._eigen(expected)
        spread: Vector = np.sqrt(((self.features @ vectors) ** 2 / values).sum(1))
        return spread

    def ask(self, allowed: np.ndarray | None = None, expected: Matrix | None = None) -> int:
        """Return the arm with the highest upper bound, of equal ones the first.

        Args:
            allowed: Which arms there are to choose from, ``(arms,)``; None: all.
            expected: As in ``deviations``.
        """
        bounds = self.estimates() + self.width * self.deviations(expected)
        return int(bounds.argmax() if allowed is None else np.where(allowed, bounds, -np.inf).argmax())

    def expect(self, parties: int) -> Matrix:
        """Return the sum of ``u u'`` over the next pulls of so many ``parties`` that ask one after the other.

        None of them knows a reward of another, but each knows what those before it pull.
        """
        gram = np.zeros_like(self.gram)
        for _ in range(parties):
            u = self.features[self.ask(expected=gram)]
            gram += np.outer(u, u)
        return gram

    def tell(self, arm: int, reward: float) -> None:
        """Add one pull."""
        u = self.features[arm]
        self.gram += np.outer(u, u)
        self.moment += reward * u

    def best(self) -> int:
        """Return the arm with the highest estimate; before the first pull, the first one."""
        return int(self.estimates().argmax())


def packed(gram: Matrix) -> Vector:
    """Return the upper half of a symmetric ``(dim, dim)`` as ``(dim (dim + 1) / 2,)``, as long as the whole one.

    What is off the diagonal is multiplied by the root of two, so the norm of the row is the Frobenius norm: clipping
    and noise mean the same on both.
    """
    rows, columns = np.triu_indices(len(gram))
    half: Vector = np.where(rows == columns, 1.0, ROOT2) * gram[rows, columns]
    return half


def unpacked(half: Vector, dim: int) -> Matrix:
    """Return the symmetric ``(dim, dim)`` of which ``half`` is the ``packed`` form."""
    rows, columns = np.triu_indices(dim)
    gram = np.zeros((dim, dim))
    gram[rows, columns] = np.where(rows == columns, 1.0, 1 / ROOT2) * half
    gram[columns, rows] = gram[rows, columns]
    return gram
