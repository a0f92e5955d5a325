"""Intervals and tests, against published values and against exact sums."""

from __future__ import annotations

import math

import pytest

from promptfed.intervals import exact_lower_bound, guessing_probability, mean_interval, t_quantile, wilson_interval


@pytest.mark.parametrize(
    ("right", "items", "low", "high"),
    # Newcombe, Statistics in Medicine 17 (1998), table I, method 3
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_agrees_with_newcombe(right: int, items: int, low: float, high: float) -> None:
    assert wilson_interval(right / items, items) == pytest.approx((low, high), abs=5e-5)


def test_wilson_stays_in_range_and_knows_nothing_of_no_items() -> None:
    assert wilson_interval(0.0, 0) == (0.0, 1.0)
    assert wilson_interval(1.0, 10)[1] == 1.0
    assert wilson_interval(1.0, 10)[0] == pytest.approx(0.7225, abs=1e-4)


@pytest.mark.parametrize(
    ("freedom", "value"), [(1, 12.7062), (7, 2.3646), (11, 2.2010), (30, 2.0423), (120, 1.9799), (10**6, 1.95997)]
)
def test_quantiles_of_students_t(freedom: int, value: float) -> None:
    assert t_quantile(freedom) == pytest.approx(value, abs=2e-4)


def test_interval_of_a_mean_over_clients() -> None:
    low, high = mean_interval([0.5, 0.6, 0.7], 3000)  # type: ignore[misc]
    half = 4.3027 * 0.1 / math.sqrt(3)
    assert (low, high) == pytest.approx((0.6 - half, 0.6 + half), abs=1e-4)
    assert mean_interval([0.0, 1.0], 10) == (0.0, 1.0), "cut to 0..1"
    assert mean_interval([], 0) is None


@pytest.mark.parametrize("accuracies", [[0.4], [0.4, 0.4, 0.4], [0.4, 0.4001, 0.3999]])
def test_clients_that_are_alike_by_chance_are_no_certainty(accuracies: list[float]) -> None:
    assert mean_interval(accuracies, 30) == pytest.approx(wilson_interval(0.4, 30))


@pytest.mark.parametrize(
    ("right", "items", "chance"), [(3, 5, 0.5), (1, 10, 0.25), (9, 9, 0.1), (0, 4, 0.5), (60, 400, 0.1)]
)
def test_a_guessers_luck_is_the_binomial_tail(right: int, items: int, chance: float) -> None:
    exact = sum(math.comb(items, k) * chance**k * (1 - chance) ** (items - k) for k in range(right, items + 1))
    assert guessing_probability(right, items, chance) == pytest.approx(exact, rel=1e-9)


def test_bounds_of_a_share_are_clopper_and_pearsons() -> None:
    assert exact_lower_bound(10, 10) == pytest.approx(0.025**0.1)
    assert exact_lower_bound(0, 10) == 0
    assert exact_lower_bound(3, 20) == pytest.approx(0.0320709, abs=1e-6)  # scipy.stats.beta.ppf(0.025, 3, 18)
