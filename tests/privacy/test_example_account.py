from __future__ import annotations

import math

import pytest

from promptfed.errors import ConfigError
from promptfed.local_training import LocalTraining
from promptfed.privacy.accountant import Release, epsilon
from promptfed.privacy.example_account import ExampleAccount, batches_of, check_sites, least_noise

pytest.importorskip("dp_accounting")
CONFIG = LocalTraining(batch_size=32, local_epochs=1)


def account(multiplier, sizes, delta=1e-5, config=CONFIG):
    return ExampleAccount(batches_of(config, sizes, classes=20), multiplier, delta)


def test_epsilon_is_that_of_poisson_steps_and_not_of_rounds():
    """n = 160, b = 32, five steps a round: 100 steps at z 1.9 and delta 1 / (10 n) are about epsilon 4."""
    [found] = account(1.9, {0: 160}, 1 / 1600).epsilons({0: 20}).values()
    assert found == pytest.approx(4.0, rel=0.06)
    assert found == epsilon([Release(1.9, 0.2, 100)], 1 / 1600)


def test_each_site_has_its_own_and_steps_are_counted_not_rounds():
    sites = account(2.0, {0: 160, 1: 20, 2: 0})
    found = sites.epsilons({0: 4, 1: 4, 2: 4})
    assert found[2] == 0.0
    assert found[1] > found[0] > 0, "the small site has every example in each of its steps"
    assert sites.largest({0: 4, 1: 4, 2: 4}) == found[1]
    assert sites.epsilons({0: 0, 1: 8})[1] > found[1]
    assert sites.epsilons({0: 0})[0] == 0.0
    two_epochs = account(2.0, {1: 20}, config=CONFIG.model_copy(update={"local_epochs": 2}))
    assert two_epochs.epsilons({1: 4})[1] == pytest.approx(sites.epsilons({1: 8})[1])


def test_full_batches_are_the_gaussian_mechanism():
    """Ten steps at z are one at z / sqrt(10): 2.15 for 20 steps is epsilon 8 at 1e-3."""
    assert account(2.15, {0: 20}, 1e-3).epsilons({0: 20})[0] == pytest.approx(8.0, abs=0.05)


def test_no_noise_is_no_promise():
    assert account(0.0, {0: 20}).epsilons({0: 1})[0] == math.inf


def test_the_noise_is_that_of_the_site_that_spends_most():
    full = LocalTraining(batch_size="all", local_epochs=1)
    batches = batches_of(full, {0: 160, 1: 40, 2: 0}, 20)
    rounds = {0: 2, 1: 5, 2: 5}
    multiplier = least_noise(batches, rounds, 3.0, 1e-5)
    found = ExampleAccount(batches, multiplier, 1e-5)
    assert found.largest(rounds) == pytest.approx(3.0, rel=2e-3)
    assert found.is_affordable(rounds, 3.0)
    assert not found.is_affordable({0: 2, 1: 6, 2: 5}, 3.0)
    assert least_noise(batches, {2: 5}, 3.0, 1e-5) == 0.0


def test_delta_is_small_beside_the_largest_site():
    check_sites({0: 20, 1: 100}, 1e-3)
    check_sites({}, 0.5)
    with pytest.raises(ConfigError, match="does not protect 1000 examples"):
        check_sites({0: 20, 1: 1000}, 1e-3)
