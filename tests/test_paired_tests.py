"""Tests of differences, against values worked out by hand and against scipy's own tests."""

from __future__ import annotations

import math

import pytest
from scipy import stats

from promptfed.packed_bits import packed_bits, unpacked_bits
from promptfed.paired_tests import holm, mcnemar, mcnemar_of, paired_t, seed_interval


def test_three_seeds_by_hand() -> None:
    """Differences 0.1, 0.2, 0: mean 0.1, deviation 0.1, t = sqrt 3; with 2 degrees p = 1 - t / sqrt(2 + t^2)."""
    found = paired_t([0.5, 0.6, 0.7], [0.4, 0.4, 0.7])
    assert found is not None
    assert found.difference == pytest.approx(0.1)
    assert found.p == pytest.approx(1 - math.sqrt(3 / 5))
    assert found.interval == pytest.approx((0.1 - 4.3027 * 0.1 / math.sqrt(3), 0.1 + 4.3027 * 0.1 / math.sqrt(3)))


def test_two_seeds_by_hand() -> None:
    """Differences 0.1 and 0.3: t = 2 with one degree of freedom, Cauchy's distribution."""
    found = paired_t([0.5, 0.7], [0.4, 0.4])
    assert found is not None
    assert found.p == pytest.approx(1 - 2 / math.pi * math.atan(2))


def test_scipy_agrees() -> None:
    values, others = [0.71, 0.68, 0.74, 0.7, 0.69], [0.66, 0.69, 0.7, 0.64, 0.67]
    found = paired_t(values, others)
    theirs = stats.ttest_rel(values, others)
    assert found is not None
    assert found.p == pytest.approx(theirs.pvalue)
    low, high = theirs.confidence_interval()
    assert found.interval == pytest.approx((low, high), abs=1e-4)
    assert mcnemar(3, 11) == pytest.approx(stats.binomtest(3, 14, 0.5).pvalue)


def test_equal_differences_have_no_spread_to_be_judged_by() -> None:
    assert paired_t([0.5], [0.4]) is None
    same, shifted = paired_t([0.5, 0.6], [0.5, 0.6]), paired_t([0.5, 0.75], [0.25, 0.5])
    assert same is not None
    assert shifted is not None
    assert (same.p, shifted.p, shifted.interval) == (1.0, None, None)
    assert shifted.difference == pytest.approx(0.25)


def test_the_interval_of_a_mean_over_seeds() -> None:
    assert seed_interval([0.5]) is None
    assert seed_interval([0.4, 0.5, 0.6]) == pytest.approx(
        (0.5 - 4.3027 * 0.1 / math.sqrt(3), 0.5 + 4.3027 * 0.1 / math.sqrt(3))
    )


@pytest.mark.parametrize(
    ("one", "other", "p"), [(1, 8, 20 / 512), (8, 1, 20 / 512), (0, 6, 2 / 64), (5, 5, 1), (0, 0, 1)]
)
def test_mcnemar_by_hand(one: int, other: int, p: float) -> None:
    assert mcnemar(one, other) == pytest.approx(p)


def test_mcnemar_counts_the_examples_that_only_one_gets_right() -> None:
    found = mcnemar_of([True, True, True, False, True, True, True, False], [False] * 7 + [True])
    assert found.difference == pytest.approx(5 / 8)
    assert found.p == pytest.approx(2 * 8 / 128)  # 6 against 1
    assert found.interval is not None
    assert found.interval[0] < 5 / 8 <= found.interval[1]
    assert mcnemar_of([], []).interval is None


def test_holm_by_hand() -> None:
    """0.01 by 3, 0.03 by 2, 0.04 by 1, and no value below one before it."""
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, None, 0.9]) == [1.0, None, 1.0]
    assert holm([]) == []


@pytest.mark.parametrize("count", [0, 1, 8, 13])
def test_bits_come_back(count: int) -> None:
    values = [k % 3 == 0 for k in range(count)]
    assert unpacked_bits(packed_bits(values), count) == values


def test_bits_of_another_length_are_none() -> None:
    assert unpacked_bits("ff", 9) == unpacked_bits("no", 8) == unpacked_bits("", -5) == []
