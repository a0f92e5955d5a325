"""Tests of the algebra of low-rank changes, on the 2x2 case worked out by hand and on random ones."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from promptfed.language_models.insert import Factors
from promptfed.low_rank import (
    covariance_residual,
    dense,
    frobenius,
    inner,
    mean_factors,
    norm_shares,
    pad_truncate,
    refactor,
    ridge_b,
    shares,
    singular,
    stack,
    total,
)

TWO = (
    Factors(torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0], [0.0]])),
    Factors(torch.tensor([[0.0, 1.0]]), torch.tensor([[0.0], [1.0]])),
)
WEIGHTS = (0.75, 0.25)


def random_changes(spread: float, ranks: tuple[int, ...] = (4,) * 5, scale: float = 2.0) -> list[Factors]:
    """Return changes of a 12 x 10 matrix whose factors are ``spread`` around common ones."""
    draw = torch.Generator().manual_seed(3)
    a, b = torch.randn(max(ranks), 10, generator=draw), torch.randn(12, max(ranks), generator=draw)

    def near(common: Tensor) -> Tensor:
        return common + spread * torch.randn(common.shape, generator=draw)

    return [Factors(near(a)[:rank], near(b)[:, :rank], scale) for rank in ranks]


def exact(changes: list[Factors], weights: list[float]) -> Tensor:
    total = torch.zeros(12, 10, dtype=torch.float64)
    for share, change in zip(shares(weights), changes, strict=True):
        total += share * dense(change)
    return total


def squared_error(change: Factors) -> float:
    return (dense(change) - torch.diag(torch.tensor([0.75, 0.25]))).square().sum().item()


def same(value: Tensor, expected: list[list[float]]) -> bool:
    return torch.allclose(value, torch.tensor(expected, dtype=torch.float64), atol=1e-6)


def test_the_sum_of_changes_is_one_change():
    changes = random_changes(1.0, ranks=(2, 3))
    torch.testing.assert_close(dense(total(changes)), dense(changes[0]) + dense(changes[1]))
    assert total(changes[:1]) is changes[0]


def test_the_two_by_two_case_by_hand() -> None:
    assert same(dense(stack(TWO, WEIGHTS)), [[0.75, 0], [0, 0.25]])
    naive = mean_factors(TWO, WEIGHTS)
    assert same(dense(naive), [[0.5625, 0.1875], [0.1875, 0.0625]])
    assert squared_error(naive) == pytest.approx(0.140625)
    assert same(dense(covariance_residual(TWO, WEIGHTS)), [[0.1875, -0.1875], [-0.1875, 0.1875]])
    best = refactor(stack(TWO, WEIGHTS), rank=1)
    assert same(dense(best), [[0.75, 0], [0, 0]])
    assert squared_error(best) == pytest.approx(0.0625)
    ridge = ridge_b(TWO, WEIGHTS, 0.0)
    assert same(ridge.b, [[0.9], [0.1]])
    assert same(dense(ridge), [[0.675, 0.225], [0.075, 0.025]])
    assert squared_error(ridge) == pytest.approx(0.1125)
    assert norm_shares(TWO) == [0.5, 0.5]
    even = ridge_b(TWO, (0.5, 0.5), 0.0)
    assert torch.allclose(even.b, mean_factors(TWO, (0.5, 0.5)).b)  # here the correction cannot help


@pytest.mark.parametrize("spread", [0.2, 0.5, 1.0])
def test_errors_come_in_the_order_naive_ridge_svd_exact(spread: float) -> None:
    changes, weights = random_changes(spread), [1.0, 2.0, 3.0, 4.0, 5.0]
    wanted = exact(changes, weights)
    whole = stack(changes, shares(weights))
    candidates = [mean_factors(changes, weights), ridge_b(changes, weights, 0.01), refactor(whole, rank=4), whole]
    errors = [(dense(change) - wanted).norm().item() for change in candidates]
    assert all(larger > smaller for larger, smaller in pairwise(errors))
    assert errors[-1] < 1e-12
    residual = covariance_residual(changes, weights)
    assert torch.allclose(dense(candidates[0]) + dense(residual), wanted, atol=1e-12)


def test_a_common_factor_makes_the_mean_exact() -> None:
    weights = [3.0, 1.0, 1.0, 1.0, 2.0]
    common = random_changes(0.5)[0].a
    changes = [Factors(common, change.b, change.scale) for change in random_changes(0.5)]
    assert torch.allclose(dense(mean_factors(changes, weights)), exact(changes, weights), atol=1e-6)
    assert frobenius(covariance_residual(changes, weights)) < 1e-6


def test_ridge_is_the_minimum_of_its_objective() -> None:
    changes, weights, penalty = random_changes(0.7), [1.0, 1.0, 2.0, 1.0, 1.0], 0.3
    mean, best = mean_factors(changes, weights), ridge_b(changes, weights, penalty)
    wanted = exact(changes, weights) / 2.0
    step = (best.b - mean.b).requires_grad_(True)
    loss = (wanted - (mean.b + step) @ mean.a).square().sum() + penalty * step.square().sum()
    (gradient,) = torch.autograd.grad(loss, step)
    assert gradient.abs().max() < 1e-10


def test_the_decomposition_is_that_of_the_dense_matrix() -> None:
    changes = random_changes(1.0, (1, 3, 2, 5, 4))
    change = stack(changes, shares([1.0, 2, 3, 4, 5]))
    parts, full = singular(change), dense(change)
    assert len(parts.s) == 10  # a rank of 15 in a matrix of 12 x 10
    assert torch.allclose(parts.s, torch.linalg.svdvals(full), atol=1e-10)
    assert torch.allclose(dense(refactor(change, scale=0.5)), full, atol=1e-10)
    assert refactor(change, scale=0.5).scale == 0.5
    for rank in (1, 4, 9):
        error = (dense(refactor(change, rank=rank)) - full).norm()
        assert error.square() == pytest.approx(parts.s[rank:].square().sum().item(), rel=1e-9)  # Eckart and Young
        assert parts.lost(rank) == pytest.approx((error / full.norm()).item(), rel=1e-9)
    assert (parts.v.gather(1, parts.v.abs().argmax(1, keepdim=True)) > 0).all()
    turned = torch.linalg.qr(torch.randn(15, 15, dtype=torch.float64))[0]
    again = refactor(Factors(turned.T @ change.a, change.b @ turned), rank=4)
    assert torch.allclose(again.a, refactor(change, rank=4).a, atol=1e-9)  # coordinates play no part


def test_the_energy_cut_keeps_the_smallest_rank_that_is_enough() -> None:
    values = torch.tensor([2.0, 1.0, 1.0, 0.0])  # squares 4, 1, 1: shares 2/3, 5/6, 1
    change = Factors(torch.eye(4), torch.diag(values))
    assert [singular(change).rank_of_energy(e) for e in (0.5, 2 / 3, 0.7, 5 / 6, 0.9, 1.0)] == [1, 1, 2, 2, 3, 3]
    assert refactor(change, energy=0.9).a.shape == (3, 4)
    assert refactor(change, rank=2, energy=0.9).a.shape == (2, 4)
    nothing = Factors(torch.eye(4), torch.zeros(4, 4))
    assert singular(nothing).rank_of_energy(0.9) == 1
    assert singular(nothing).lost(1) == 0
    assert not dense(refactor(nothing, energy=0.9)).any()


def test_norms_need_no_dense_matrix() -> None:
    one, other = random_changes(1.0, (4, 2))
    assert frobenius(one) == pytest.approx(dense(one).norm().item())
    assert inner(one, other).item() == pytest.approx((dense(one) * dense(other)).sum().item())


def test_padding_and_cutting_of_ranks() -> None:
    change = random_changes(1.0, (3,))[0]
    wide = pad_truncate(change, 5)
    assert wide.a.shape == (5, 10)
    assert torch.equal(dense(wide), dense(change))
    narrow = pad_truncate(wide, 2)
    assert torch.equal(narrow.a, change.a[:2])
    assert torch.equal(narrow.b, change.b[:, :2])


def test_factors_of_different_scales_have_no_mean() -> None:
    one = random_changes(1.0, (3,))[0]
    with pytest.raises(ValueError, match="different scales"):
        mean_factors([one, Factors(one.a, one.b, 1.0)], [1, 1])
