"""Ticks are round numbers, and values stand where a ruler puts them."""

import pytest

from promptfed.report.charts.scale import linear_scale, log_scale, round_step, short_number


def test_ends_are_round_numbers_around_the_values() -> None:
    scale = linear_scale([12, 87], 0, 100)
    assert (scale.low, scale.high) == (0, 100)
    assert scale.ticks == (0, 20, 40, 60, 80, 100)
    assert scale.place(25) == 25


def test_an_axis_may_point_upwards() -> None:
    scale = linear_scale([0, 1], 200, 100, limits=(0, 1))
    assert scale.place(0.25) == 175


def test_rounds_are_whole_and_end_at_the_values() -> None:
    scale = linear_scale([1, 2, 3], 10, 30, integer=True)
    assert scale.ticks == (1, 2, 3)
    assert [scale.place(k) for k in (1, 2, 3)] == [10, 20, 30]
    assert linear_scale(range(1, 101), 0, 1, integer=True, most_ticks=6).ticks == (20, 40, 60, 80, 100)


@pytest.mark.parametrize("values", [[5.0], [0.0, 0.0], [], [47.916666666666664, 47.91666666666667]])
def test_one_value_or_none_has_a_scale_too(values: list[float]) -> None:
    scale = linear_scale(values, 0, 10)
    assert scale.low < scale.high
    assert all(0 <= scale.place(value) <= 10 for value in values)


def test_a_single_round_stands_in_the_middle() -> None:
    assert linear_scale([1], 0, 10, integer=True).place(1) == 5


def test_equal_ratios_are_equally_far() -> None:
    scale = log_scale([10, 1000], 0, 100)
    assert scale.place(100) == pytest.approx(50)
    assert scale.ticks == (10, 20, 50, 100, 200, 500, 1000)
    assert log_scale([1, 1e6], 0, 1).ticks == (1, 10, 100, 1e3, 1e4, 1e5, 1e6)


def test_steps_and_numbers() -> None:
    assert [round_step(step) for step in (0.13, 1, 1.1, 3, 70)] == [0.2, 1, 2, 5, 100]
    assert round_step(0.3, integer=True) == 1
    assert [short_number(value) for value in (1000.0, 0.25, 1e-5)] == ["1,000", "0.25", "1e-05"]
