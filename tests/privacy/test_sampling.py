"""A coin for each client: independent, of the right probability, and the same when a round is run again."""

from __future__ import annotations

import numpy as np
import pytest

from promptfed.privacy.sampling import poisson_sample
from promptfed.privacy.secret_key import SecretKey

KEY = SecretKey(bytes(range(32)))


def test_the_same_round_has_the_same_participants() -> None:
    assert poisson_sample(KEY, 3, 200, 0.3) == poisson_sample(KEY, 3, 200, 0.3)
    others = [(KEY, 4, 200, 0.3), (SecretKey(bytes(32)), 3, 200, 0.3), (KEY, 3, 200, 0.3, "local_only")]
    assert all(poisson_sample(*other) != poisson_sample(KEY, 3, 200, 0.3) for other in others)


def test_a_client_is_in_whoever_else_is_there() -> None:
    assert poisson_sample(KEY, 1, 300, 0.3)[: len(poisson_sample(KEY, 1, 100, 0.3))] == poisson_sample(KEY, 1, 100, 0.3)
    few, many = set(poisson_sample(KEY, 1, 100, 0.2)), set(poisson_sample(KEY, 1, 100, 0.6))
    assert few < many


def test_sizes_are_binomial_and_coins_independent() -> None:
    clients, rounds, probability = 20, 4000, 0.1
    coins = np.zeros((rounds, clients))
    for round in range(rounds):
        coins[round, list(poisson_sample(KEY, round, clients, probability))] = 1
    sizes = coins.sum(1)
    assert abs(sizes.mean() - 2.0) < 4 * np.sqrt(1.8 / rounds)
    assert abs(sizes.var() - 1.8) < 0.18
    assert abs((sizes == 0).mean() - 0.9**20) < 4 * np.sqrt(0.12 * 0.88 / rounds)  # empty rounds are there
    correlation = np.corrcoef(coins.T) - np.eye(clients)
    assert np.abs(correlation).max() < 4.5 / np.sqrt(rounds)
    assert np.abs(coins.mean(0) - 0.1).max() < 4 * 0.3 / np.sqrt(rounds)


def test_the_ends_of_the_range() -> None:
    assert poisson_sample(KEY, 1, 5, 1.0) == (0, 1, 2, 3, 4)
    assert poisson_sample(KEY, 1, 5, 2.0**-70) == ()
    for probability in (0.0, -0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="above 0 and at most 1"):
            poisson_sample(KEY, 1, 5, probability)
