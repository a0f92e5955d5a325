"""Algebra of low-rank changes ``s B A`` of frozen matrices: what servers of federated LoRA do, as pure functions.

A change is a ``Factors``: ``a`` ``(r, in)``, ``b`` ``(out, r)``, ``scale``. No function here forms an ``out x in``
matrix, except ``dense``. All compute in float64 and return it.

Wanted is ``M = sum_k p_k s_k B_k A_k``, the mean of the clients' changes. The product of the means of the factors is
off by ``s sum_k p_k (B_k - Bbar) (A_k - Abar)``, and is right if the deviations are uncorrelated, such as where one
factor is common to all. (Sun et al. 2024, arXiv 2403.12313; Singhal et al. 2024, arXiv 2410.09432.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from promptfed.language_models.insert import Factors


def dense(change: Factors) -> Tensor:
    """Return ``s B A`` ``(out, in)``: for tests, and for weights that are merged."""
    return change.scale * (change.b.double() @ change.a.double())


def shares(weights: Sequence[float]) -> list[float]:
    """Return ``weights`` divided by their sum."""
    total = sum(weights)
    return [weight / total for weight in weights]


def mean_factors(changes: Sequence[Factors], weights: Sequence[float]) -> Factors:
    """Return the means of A and of B, one by one (FedIT); of equal ranks and scales."""
    portions = torch.tensor(shares(weights), dtype=torch.float64)
    a = torch.tensordot(portions, torch.stack([change.a.double() for change in changes]), 1)
    b = torch.tensordot(portions, torch.stack([change.b.double() for change in changes]), 1)
    return Factors(a, b, _common_scale(changes))


def stack(changes: Sequence[Factors], weights: Sequence[float]) -> Factors:
    """Return ``sum_k w_k s_k B_k A_k`` as one change of rank ``sum r_k`` and scale 1 (FLoRA, arXiv 2409.05976).

    The weights are taken as they are; ``shares`` makes them a mean's. Ranks and scales may differ.
    """
    a = torch.cat([change.a.double() for change in changes], 0)
    factors = zip(weights, changes, strict=True)
    return Factors(a, torch.cat([w * change.scale * change.b.double() for w, change in factors], 1))


def total(changes: Sequence[Factors]) -> Factors:
    """Return the sum of ``changes`` as one; a single one as it is."""
    return changes[0] if len(changes) == 1 else stack(changes, [1.0] * len(changes))


def covariance_residual(changes: Sequence[Factors], weights: Sequence[float]) -> Factors:
    """Return ``M - s Bbar Abar``, what a mean of the factors misses (FedEx-LoRA), of rank ``K r`` and scale 1."""
    mean = mean_factors(changes, weights)
    deviations = [Factors(c.a.double() - mean.a, c.b.double() - mean.b, c.scale) for c in changes]
    return stack(deviations, shares(weights))


def inner(one: Factors, other: Factors) -> Tensor:
    """Return ``<s B A, s' B' A'>``, the sum of products of all entries: ``s s' tr((B^T B') (A' A^T))``."""
    outputs = one.b.double().T @ other.b.double()
    return one.scale * other.scale * (outputs * (one.a.double() @ other.a.double().T)).sum()


def frobenius(change: Factors) -> float:
    """Return ``|s B A|``, the root of the sum of squares of all entries."""
    return math.sqrt(max(0.0, inner(change, change).item()))


@dataclass(frozen=True, eq=False)
class Singular:
    """A change as ``U diag(s) V``, singular values falling; ``u`` ``(out, n)``, ``s`` ``(n,)``, ``v`` ``(n, in)``."""

    u: Tensor
    s: Tensor
    v: Tensor

    def rank_of_energy(self, energy: float) -> int:
        """Return the smallest rank, at least 1, whose singular values have the share ``energy`` of all squares.

        At ``energy`` 1 nothing is lost but rounding of float32: a relative error of 1e-7.
        """
        squares = self.s.square()
        total = squares.sum()
        if not total > 0:
            return 1
        is_short = squares.cumsum(0) / total < energy - 1e-14
        return min(len(self.s), int(is_short.sum()) + 1)

    def lost(self, rank: int) -> float:
        """Return the relative error ``|M - M_rank| / |M|`` of a cut to ``rank`` (Eckart and Young); 0 if M is 0."""
        squares = self.s.square()
        total = squares.sum()
        return float((squares[rank:].sum() / total).sqrt()) if total > 0 else 0.0

    def factors(self, rank: int, scale: float = 1.0) -> Factors:
        """Return the best change of ``rank`` at most: ``B = U S / scale``, ``A = V``."""
        return Factors(self.v[:rank], self.u[:, :rank] * self.s[:rank] / scale, scale)


def singular(change: Factors) -> Singular:
    """Return the singular value decomposition of ``s B A``, from QR of both factors and the SVD of a small matrix.

    It has ``min(r, out, in)`` values (FLoRIST, arXiv 2506.09199). Signs are fixed: the largest entry of each row of
    ``v`` is positive, so that equal changes have equal factors.
    """
    q_b, r_b = torch.linalg.qr(change.b.double())
    q_a, r_a = torch.linalg.qr(change.a.double().T)
    u, s, v = torch.linalg.svd(change.scale * (r_b @ r_a.T), full_matrices=False)
    u, v = q_b @ u, v @ q_a.T
    signs = torch.sign(v.gather(1, v.abs().argmax(1, keepdim=True)))
    signs = torch.where(signs == 0, torch.ones_like(signs), signs)
    return Singular(u * signs.T, s, v * signs)


def refactor(change: Factors, rank: int | None = None, energy: float | None = None, scale: float = 1.0) -> Factors:
    """Return the best change of a lower rank, ``B = U S / scale`` and ``A = V^T`` (FlexLoRA, arXiv 2402.11505).

    Args:
        change: Of any rank.
        rank: The most that is kept; None: no limit.
        energy: The share of the sum of squared singular values that is kept at least; None: all.
        scale: Of the outcome.
    """
    parts = singular(change)
    count = len(parts.s) if energy is None else parts.rank_of_energy(energy)
    return parts.factors(count if rank is None else min(rank, count), scale)


def ridge_b(changes: Sequence[Factors], weights: Sequence[float], penalty: float) -> Factors:
    """Return ``(Abar, Bbar + D)`` whose product is nearer to M (LoRA-FAIR, arXiv 2411.14961, in closed form).

    D minimises ``|M / s - (Bbar + D) Abar|^2 + penalty |D|^2``: ``D = R Abar^T (Abar Abar^T + penalty I)^-1`` with
    ``R = M / s - Bbar Abar``. Where ``Abar Abar^T`` has no inverse at penalty 0, the shortest D is taken.
    """
    mean = mean_factors(changes, weights)
    residual = covariance_residual(changes, weights)
    gram = mean.a @ mean.a.T
    inverse = torch.linalg.pinv(gram + penalty * torch.eye(len(gram), dtype=gram.dtype), hermitian=True)
    step = residual.b @ (residual.a @ mean.a.T) @ inverse / mean.scale
    return Factors(mean.a, mean.b + step, mean.scale)


def pad_truncate(change: Factors, rank: int) -> Factors:
    """Return ``change`` with its first ``rank`` rows of A and columns of B, or with zeros beyond its own (HETLORA)."""
    a, b = change.a[:rank], change.b[:, :rank]
    missing = rank - len(a)
    if missing > 0:
        a = torch.cat([a, a.new_zeros(missing, a.shape[1])], 0)
        b = torch.cat([b, b.new_zeros(len(b), missing)], 1)
    return Factors(a, b, change.scale)


def norm_shares(changes: Sequence[Factors]) -> list[float]:
    """Return weights in proportion to ``|s_k B_k A_k|`` (HETLORA, arXiv 2401.06432); equal ones if all are 0."""
    norms = [frobenius(change) for change in changes]
    return shares(norms if sum(norms) > 0 else [1.0] * len(norms))


def _common_scale(changes: Sequence[Factors]) -> float:
    scales = {change.scale for change in changes}
    if len(scales) > 1:
        raise ValueError(f"factors of different scales have no mean: {sorted(scales)}")
    return scales.pop()
