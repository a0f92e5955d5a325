from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import trim_mean


def test_median_by_hand(state, merge):
    prompts = [state(1, 50), state(2, -7), state(1e6, 3)]
    assert merge("median", state(0, 0), prompts, [1000, 1, 1]) == state(2, 3)
    assert merge("median", state(0, 0), prompts[:2], [1000, 1]) == state(1.5, 21.5)


def test_trimmed_mean_by_hand(state, merge):
    prompts = [state(v) for v in (0, 1, 2, 6, 1e6)]
    assert merge("trimmed_mean", state(0), prompts, trim=0.2) == state(3)
    assert merge("trimmed_mean", state(0), prompts, trim=0.21) == state(2), "1.05 of 5 clients are 2"


def test_with_too_few_updates_the_trimmed_mean_is_the_median(state, merge):
    prompts = [state(v) for v in (0, 1, 1e6)]
    assert merge("trimmed_mean", state(0), prompts, trim=0.45) == state(1)


@pytest.mark.parametrize("count", [5, 8, 10, 11])
def test_the_same_as_numpy_and_scipy(count, state, merge):
    values = np.random.default_rng(count).normal(size=(count, 3))
    prompts = [state(*row) for row in values]
    np.testing.assert_allclose(merge("median", state(0, 0, 0), prompts)["ctx"], np.median(values, 0), rtol=1e-6)
    share = np.ceil(0.2 * count) / count
    expected = trim_mean(values, share + 1e-12, axis=0)
    found = merge("trimmed_mean", state(0, 0, 0), prompts, trim=0.2)["ctx"]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)


def test_samples_do_not_count(crowd, merge):
    shared, prompts, samples = crowd
    for name in ("median", "trimmed_mean"):
        assert torch.equal(merge(name, shared, prompts, samples)["a"], merge(name, shared, prompts)["a"])
