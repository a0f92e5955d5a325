from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from promptfed.prompt_state import PromptState


def test_on_a_line_it_is_the_weighted_median(state, merge):
    prompts = [state(0), state(1), state(1e6)]
    assert merge("geometric_median", state(0), prompts)["ctx"].item() == pytest.approx(1, abs=1e-3)
    # client 0 holds more than half of the samples
    assert merge("geometric_median", state(0), prompts, [5, 1, 1])["ctx"].item() == pytest.approx(0, abs=1e-3)


def test_fermat_point_of_a_triangle(state, merge):
    # Corners (0, 0), (2, 0), (1, 3): from the Fermat point all sides are seen under 120 degrees: (1, 1 / sqrt(3)).
    found = merge("geometric_median", state(5, 5), [state(0, 0), state(2, 0), state(1, 3)])["ctx"]
    np.testing.assert_allclose(found, [1, 3**-0.5], atol=1e-6)


def test_the_same_as_a_general_minimiser(crowd, merge):
    shared, prompts, samples = crowd
    points = np.stack([np.concatenate([p[n].double().numpy().ravel() for n in ("a", "b")]) for p in prompts])
    shares = np.array(samples) / sum(samples)

    def total(x):
        return (shares * np.linalg.norm(points - x, axis=1)).sum()

    best = minimize(total, points.mean(0), method="BFGS", options={"gtol": 1e-10}).x
    found = merge("geometric_median", shared, prompts, samples)
    flat = torch.cat([found["a"].flatten(), found["b"]]).double().numpy()
    np.testing.assert_allclose(flat, best, atol=1e-4)
    assert total(flat) <= total(best) + 1e-7


def test_four_equal_prompts_outvote_three_far_ones(state, merge):
    far = [state(1e6, 0), state(0, 1e6), state(-1e6, 1e6)]
    found = merge("geometric_median", state(0, 0), [state(1, 1)] * 4 + far)["ctx"]
    np.testing.assert_allclose(found, [1, 1], atol=1e-2)


@pytest.mark.parametrize("size", [1e3, 1e6, 1e9, 1e12, 1e18, 1e38])
@pytest.mark.parametrize("liars", [1, 2, 3])
def test_how_far_away_an_outlier_is_makes_no_difference(size, liars, merge):
    """The stopping rule once compared with the mean distance, which the outlier makes: 1e6 already stopped too soon."""
    draw = torch.Generator().manual_seed(4)
    shared = PromptState({"ctx": torch.zeros(6, 8)})
    honest = [PromptState({"ctx": torch.randn(6, 8, generator=draw)}) for _ in range(10 - liars)]
    near = merge("geometric_median", shared, honest + [PromptState({"ctx": torch.full((6, 8), 1e3)})] * liars)
    far = merge("geometric_median", shared, honest + [PromptState({"ctx": torch.full((6, 8), size)})] * liars)
    clean = merge("geometric_median", shared, honest)
    assert (far - near).norm() < 0.02 * clean.norm() + 0.02
    assert (far - clean).norm() < 2 * max(p.norm() for p in honest)
