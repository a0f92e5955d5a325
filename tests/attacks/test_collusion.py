from __future__ import annotations

from statistics import NormalDist

import numpy as np
import pytest
import torch

from promptfed.attacks.base import build_attack
from promptfed.attacks.collusion import z_max
from promptfed.attacks.round import Round

KNOWN = torch.tensor([[1.0, 0.0], [3.0, 0.0], [2.0, 3.0]], dtype=torch.float64)  # mean (2, 1)


def vector(name, known=KNOWN, clients=10, malicious=2, **options):
    return build_attack(name, options).vector(known, clients, malicious)


def test_alie_is_the_mean_less_some_deviations():
    expected = [2 - 1.5 * 1.0, 1 - 1.5 * 3**0.5]  # sample deviations 1 and sqrt(3)
    assert vector("alie", z=1.5).tolist() == pytest.approx(expected)


@pytest.mark.parametrize(("clients", "malicious", "z"), [(10, 2, 0.0), (30, 6, 0.21), (100, 20, 0.29), (30, 12, 0.765)])
def test_z_max_of_the_paper(clients, malicious, z):
    assert z_max(clients, malicious) == pytest.approx(z, abs=5e-3)


def test_z_max_is_finite_where_attackers_are_the_majority():
    assert z_max(10, 8) == pytest.approx(NormalDist().inv_cdf(0.5))
    assert z_max(10, 10) == 0.0


def test_ipm_is_the_mean_reversed():
    assert vector("ipm", strength=2).tolist() == pytest.approx([-4.0, -2.0])


def test_mimic_is_one_of_them():
    assert vector("mimic", index=4).tolist() == [3.0, 0.0]


@pytest.mark.parametrize("direction", ["unit", "sign", "std"])
def test_minmax_is_as_far_as_the_farthest_two(direction):
    known = torch.from_numpy(np.random.default_rng(0).standard_normal((6, 5))) + 1
    sent = vector("minmax", known, direction=direction)
    farthest = torch.cdist(known, known).max()
    assert (sent - known).norm(dim=1).max().item() == pytest.approx(farthest.item(), rel=1e-9)
    assert (sent - known.mean(0)).norm() > 0.1


@pytest.mark.parametrize("direction", ["unit", "sign", "std"])
def test_minsum_has_the_largest_sum_of_squares(direction):
    known = torch.from_numpy(np.random.default_rng(1).standard_normal((6, 5))) + 1
    sent = vector("minsum", known, direction=direction)
    largest = torch.cdist(known, known).square().sum(1).max()
    assert (sent - known).square().sum().item() == pytest.approx(largest.item(), rel=1e-9)


def test_minmax_by_hand():
    """Of -1 and 1 around mean 0, in the direction of sigma: gamma sqrt(2) + 1 = 2."""
    known = torch.tensor([[-1.0], [1.0]], dtype=torch.float64)
    assert vector("minmax", known, direction="std").item() == pytest.approx(-1.0)
    assert vector("minsum", known, direction="std").item() == pytest.approx(-1.0)  # 2 x^2 + 2 = 4


@pytest.mark.parametrize("name", ["alie", "ipm", "minmax", "minsum", "mimic"])
def test_one_known_change_is_enough(name):
    assert vector(name, KNOWN[:1]).isfinite().all()
    assert vector(name, torch.zeros(3, 2, dtype=torch.float64)).isfinite().all()


@pytest.mark.parametrize(
    ("name", "options", "oracle", "arguments"),
    [
        ("alie", {"z": 1.5}, "ALittleIsEnough", (-1.5,)),
        ("ipm", {"strength": 2.0}, "InnerProductManipulation", (2.0,)),
        ("ipm", {"strength": 1.0}, "SignFlipping", ()),
        ("mimic", {"index": 3}, "Mimic", (3,)),
    ],
)
def test_byzfl_sends_the_same(name, options, oracle, arguments):
    byzfl = pytest.importorskip("byzfl")
    known = np.random.default_rng(2).standard_normal((8, 20))
    expected = getattr(byzfl, oracle)(*arguments)(known)
    np.testing.assert_allclose(vector(name, torch.from_numpy(known), **options).numpy(), expected, atol=1e-6)


def test_attackers_compute_with_honest_changes_or_with_their_own():
    changes = {client: torch.full((2,), float(client), dtype=torch.float64) for client in range(5)}
    round = Round(1, 0, changes, frozenset({1, 4}))
    assert round.known(4, group_only=False)[:, 0].tolist() == [0.0, 2.0, 3.0]
    assert round.known(4, group_only=True)[:, 0].tolist() == [1.0, 4.0]
    alone = Round(1, 0, {4: changes[4], 0: changes[0]}, frozenset({1, 4}))
    assert alone.known(4, group_only=False)[:, 0].tolist() == [4.0]  # one honest client says nothing of their spread
