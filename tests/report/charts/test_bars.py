"""Bars end at their values, whiskers at the ends of the intervals."""

import pytest

from promptfed.report.charts.bars import Bar, bar_chart
from promptfed.report.charts.look import ZERO_SHOT, method_look

from .drawings import of_class, parsed, words

BARS = [Bar("a & b", 25, (10, 50), {"zero-shot": 75}, "n 8"), Bar("two", 100), Bar("three", None, note="one class")]


def test_bars_whiskers_and_marks_share_a_scale() -> None:
    chart = bar_chart("Clients", BARS, x_title="accuracy (%)", series=("mine", method_look(0)),
                      marks={"zero-shot": ZERO_SHOT})  # fmt: skip
    tree = parsed(chart)
    first, second = (bar for bar in of_class(tree, "bar") if bar.find("title") is not None)
    left, unit = float(first.get("x") or 0), float(second.get("width") or 0) / 100
    assert float(first.get("width") or 0) == pytest.approx(25 * unit, abs=0.01)
    [whisker] = of_class(tree, "whisker")
    ends = (whisker.get("d") or "").split("M")[1]
    low, high = float(ends.split()[0]), float(ends.split("H")[1])
    assert (low, high) == pytest.approx((left + 10 * unit, left + 50 * unit), abs=0.1)
    marks = [mark for mark in of_class(tree, "mark") if mark.find("title") is not None]
    corners = [float(pair.split(",")[0]) for pair in (marks[0].get("points") or "").split()]
    assert sum(corners) / len(corners) == pytest.approx(left + 75 * unit, abs=0.1)
    assert {"a & b", "three", "one class", "n 8", "zero-shot"} <= set(words(tree))


def test_the_text_alternative_lists_the_rows_from_the_top() -> None:
    marks = {"zero-shot": ZERO_SHOT}
    chart = bar_chart("Clients", BARS, x_title="accuracy (%)", series=("mine", method_look(0)), marks=marks)
    assert chart is not None
    assert chart.description == (
        "Bars of accuracy (%), mine, 3 rows from the top. a & b: 25 (10 to 50), n 8. two: 100. three: one class."
    )
    assert bar_chart("Clients", [], x_title="%", series=("mine", method_look(0))) is None
