from __future__ import annotations

import ot
import pytest
import torch

from promptfed.methods.fedotp.optimal_transport import transport_plan


def similarities(*shape: int, spread: float = 1.0, seed: int = 0) -> torch.Tensor:
    """Cosines in -spread .. spread."""
    return spread * (2 * torch.rand(shape, generator=torch.Generator().manual_seed(seed)) - 1)


@pytest.mark.parametrize("smoothing", [0.1, 0.5])
def test_balanced_plans_are_pots(smoothing):
    """With mass 1 both marginals are equalities, and the problem is plain entropic transport."""
    given = similarities(5, 2, 9)
    plans = transport_plan(given, 1.0, smoothing, steps=5000, tolerance=1e-9)
    for one, plan in zip(given, plans, strict=True):
        cost = (1 - one.T).double().numpy()
        theirs = ot.sinkhorn(
            torch.full((9,), 1 / 9).double().numpy(), [0.5, 0.5], cost, smoothing, numItermax=100_000, stopThr=1e-8
        )
        assert torch.allclose(plan.T.double(), torch.from_numpy(theirs), atol=1e-6)


@pytest.mark.parametrize("mass", [0.3, 0.8])
def test_unbalanced_plans_are_pots_partial_ones(mass):
    """Rows bounded by 1/V, columns by mass/2 and a total of mass: then columns are met, as FedOTP asks."""
    given = similarities(4, 2, 12, seed=3)
    plans = transport_plan(given, mass, 0.2, steps=3000, tolerance=1e-9)
    rows, columns = torch.full((12,), 1 / 12).double().numpy(), torch.full((2,), mass / 2).double().numpy()
    for one, plan in zip(given, plans, strict=True):
        cost = (1 - one.T).double().numpy()
        theirs = ot.partial.entropic_partial_wasserstein(rows, columns, cost, 0.2, m=mass, numItermax=5000)
        assert torch.allclose(plan.T.double(), torch.from_numpy(theirs), atol=1e-5)


@pytest.mark.parametrize(("mass", "smoothing"), [(0.8, 0.1), (0.8, 0.01), (0.3, 0.1), (1.0, 0.1)])
def test_prompts_get_their_shares_and_no_place_gives_more_than_it_has(mass, smoothing):
    given = similarities(6, 3, 2, 49, spread=0.4)
    plan = transport_plan(given, mass, smoothing, steps=5000, tolerance=1e-9)
    assert (plan >= 0).all()
    assert plan.sum(-2).max() <= 1 / 49 * 1.0001
    if mass == 1.0:
        assert torch.allclose(plan.sum(-2), torch.full((6, 3, 49), 1 / 49), atol=1e-5)
    for found in (plan, transport_plan(given, mass, smoothing)):
        assert torch.allclose(found.sum(-1), torch.full((6, 3, 2), mass / 2), atol=1e-6), "exact however early it stops"


def test_default_steps_get_near_the_solution():
    given = similarities(50, 2, 36, spread=0.4)
    plan, solved = transport_plan(given, 0.8), transport_plan(given, 0.8, steps=5000, tolerance=1e-9)
    gain, best = ((p * given).sum((-2, -1)) for p in (plan, solved))
    assert torch.allclose(gain, best, atol=1e-3)
    assert plan.sum(-2).max() <= 1 / 36 * 1.02


def test_places_that_fit_no_prompt_stay_out():
    given = torch.full((1, 2, 10), 0.9)
    given[..., 7:] = -0.9
    plan = transport_plan(given, 0.6, 0.05)[0]
    assert plan[:, 7:].sum() < 1e-6
    assert torch.allclose(plan[:, :7].sum(0), torch.full((7,), 0.6 / 7), atol=1e-5)


def test_a_single_prompt_and_two_equal_ones_carry_the_same():
    one = similarities(3, 1, 8)
    single, double = transport_plan(one, 0.8, 0.1), transport_plan(one.expand(3, 2, 8), 0.8, 0.1)
    assert torch.allclose(double.sum(1), single[:, 0], atol=1e-5)


def test_the_most_extreme_cosines_give_no_nan():
    given = torch.ones(2, 2, 196)
    given[0, :, 1:] = -1.0  # a single place fits, and it cannot give enough
    given[1, 0] = -1.0
    plan = transport_plan(given, 0.8, 0.01)
    assert torch.isfinite(plan).all()
    assert torch.allclose(plan.sum(-1), torch.full((2, 2), 0.4), atol=1e-5)


def test_a_plan_does_not_depend_on_the_rest_of_the_batch():
    given = similarities(40, 2, 16, spread=0.8)
    together = transport_plan(given, 0.8, 0.05)
    alone = torch.cat([transport_plan(one[None], 0.8, 0.05) for one in given])
    assert torch.allclose(together, alone, atol=1e-7)


def test_no_gradient_goes_through_the_plan():
    given = similarities(2, 2, 5).requires_grad_(True)
    plan = transport_plan(given)
    assert not plan.requires_grad
    (plan * given).sum().backward()
    assert torch.equal(given.grad, plan)
