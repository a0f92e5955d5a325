"""Two numbers that make scores of several engines comparable."""

from __future__ import annotations

import numpy as np
import pytest

from promptfed.retrieval.calibration import fit_calibration


def sample(slope, shift, n=4000):
    draw = np.random.default_rng(1)
    scores = draw.normal(3.0, 2.0, n)
    return scores, (draw.random(n) < 1 / (1 + np.exp(-(slope * scores + shift)))).astype(float)


def test_the_curve_that_made_the_data_is_found():
    slope, shift = fit_calibration(*sample(0.8, -2.0))
    assert slope == pytest.approx(0.8, abs=0.05)
    assert shift == pytest.approx(-2.0, abs=0.2)


def test_the_gradient_of_the_penalised_loss_is_zero():
    scores, relevant = sample(0.5, -1.0, 60)
    slope, shift = fit_calibration(scores, relevant)
    chance = 1 / (1 + np.exp(-(slope * scores + shift)))
    unit = (scores - scores.mean()) / scores.std()
    assert unit @ (chance - relevant) + slope * scores.std() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("scores", "relevant"), [([1, 1, 1], [0, 1, 0]), ([], []), ([1, 2, 3, 4], [1, 1, 0, 0])], ids=str
)
def test_scores_that_tell_nothing_leave_the_rate(scores, relevant):
    slope, shift = fit_calibration(np.array(scores), np.array(relevant))
    rate = (sum(relevant) + 0.5) / (len(relevant) + 1)
    assert slope == 0
    assert shift == pytest.approx(np.log(rate / (1 - rate)))


def test_separable_scores_have_a_finite_slope():
    slope, _ = fit_calibration(np.array([1.0, 2, 8, 9]), np.array([0.0, 0, 1, 1]))
    assert 0 < slope < 10
