"""LinUCB worked out by hand, and its sums as they travel."""

from __future__ import annotations

import numpy as np
import pytest

from promptfed.blackbox.search.linear_bandit import LinearBandit, packed, unpacked

AXES = np.eye(2)


def make(features=AXES, ridge=1.0, width=1.0, gram=None, moment=None):
    dim = features.shape[1]
    return LinearBandit(
        features,
        np.zeros((dim, dim)) if gram is None else gram,
        np.zeros(dim) if moment is None else moment,
        ridge,
        width,
    )


def test_estimates_and_deviations_of_orthogonal_arms_are_those_of_single_means():
    """Arm 0 after rewards 1, 0.5, 0.6: theta u = 2.1 / (3 + 1), deviation 1 / sqrt(4)."""
    bandit = make()
    for reward in (1.0, 0.5, 0.6):
        bandit.tell(0, reward)
    assert bandit.estimates() == pytest.approx([0.525, 0.0])
    assert bandit.deviations() == pytest.approx([0.5, 1.0])
    assert bandit.log_det() == pytest.approx(np.log(4.0))
    assert bandit.best() == 0
    assert bandit.ask() == 0  # 1.025 against 1.0
    assert bandit.ask(np.array([False, True])) == 1
    bandit.tell(0, 0.0)  # 2.1 / 5 + 1 / sqrt(5) = 0.867
    assert bandit.ask() == 1


def test_what_others_are_expected_to_pull_narrows_deviations_alone():
    bandit = make()
    assert bandit.ask() == 0
    expected = bandit.expect(1)
    assert expected.tolist() == [[1.0, 0.0], [0.0, 0.0]]
    assert bandit.deviations(expected) == pytest.approx([np.sqrt(0.5), 1.0])
    assert bandit.ask(expected=expected) == 1
    assert bandit.expect(4).tolist() == [[2.0, 0.0], [0.0, 2.0]]
    assert not bandit.gram.any()


def test_bounds_are_those_of_an_explicit_inverse():
    draw = np.random.default_rng(0)
    features = draw.normal(size=(9, 4))
    bandit, v, b = make(features, ridge=0.3, width=0.7), 0.3 * np.eye(4), np.zeros(4)
    for _ in range(12):
        bounds = features @ np.linalg.solve(v, b) + 0.7 * np.sqrt((features @ np.linalg.inv(v) * features).sum(1))
        arm = bandit.ask()
        assert arm == bounds.argmax()
        reward = draw.uniform()
        bandit.tell(arm, reward)
        v += np.outer(features[arm], features[arm])
        b += reward * features[arm]
        assert bandit.log_det() == pytest.approx(np.linalg.slogdet(v)[1])


def test_a_gram_that_noise_made_indefinite_still_names_an_arm():
    bandit = make(gram=np.array([[-5.0, 0.0], [0.0, 3.0]]), moment=np.array([1.0, 2.0]))
    assert bandit.deviations() == pytest.approx([1.0, 0.5])
    assert bandit.estimates() == pytest.approx([1.0, 0.5])


def test_the_half_that_travels_is_as_long_as_the_whole_and_comes_back():
    whole = np.random.default_rng(1).normal(size=(5, 5))
    whole += whole.T
    half = packed(whole)
    assert half.shape == (15,)
    assert np.linalg.norm(half) == pytest.approx(np.linalg.norm(whole))
    assert unpacked(half, 5) == pytest.approx(whole)
