"""Lines stand where their numbers are, and the description says what they do."""

import pytest

from promptfed.report.charts.frame import BELOW
from promptfed.report.charts.lines import Series, line_chart
from promptfed.report.charts.look import LOCAL_ONLY, ZERO_SHOT, method_look

from .drawings import of_class, parsed, points, words

SERIES = [
    Series("zero-shot", [(1, 50)], ZERO_SHOT, is_level=True),
    Series("local-only", [(1, 0), (2, 40), (3, 100)], LOCAL_ONLY),
    Series("<b>mine</b>", [(1, 20), (3, 60)], method_look(0), band=[(10, 30), (50, 70)]),
]


def test_points_stand_where_a_ruler_puts_them() -> None:
    chart = line_chart("Accuracy", SERIES, x_title="round", y_title="accuracy (%)", y_limits=(0, 100))
    tree = parsed(chart)
    assert chart is not None
    level, local, mine = (points(e.get("d") or "") for e in of_class(tree, "line") if e.tag == "path")
    top, bottom, left, right = local[2][1], local[0][1], local[0][0], local[2][0]
    assert bottom == chart.height - BELOW
    assert local[1] == pytest.approx(((left + right) / 2, bottom - 0.4 * (bottom - top)), abs=0.01)
    assert [y for _, y in level] == pytest.approx([(top + bottom) / 2] * 2, abs=0.01)
    assert [x for x, _ in level] == [left, right]
    assert [y for _, y in mine] == pytest.approx([bottom - share * (bottom - top) for share in (0.2, 0.6)], abs=0.01)
    [band] = of_class(tree, "band")
    assert len(points(band.get("d") or "")) == 4


def test_the_text_alternative_says_what_the_lines_do() -> None:
    chart = line_chart("Accuracy", SERIES, x_title="round", y_title="accuracy (%)")
    assert chart is not None
    assert chart.description == (
        "Line chart of accuracy (%) by round. zero-shot: 50 throughout. "
        "local-only: from 0 at 1 to 100 at 3, lowest 0 at 1, highest 100 at 3. "
        "<b>mine</b>: from 20 at 1 to 60 at 3, lowest 20 at 1, highest 60 at 3."
    )
    assert {"round", "accuracy (%)", "zero-shot", "local-only", "<b>mine</b>"} <= set(words(parsed(chart)))


def test_series_differ_without_colour() -> None:
    tree = parsed(line_chart("Accuracy", SERIES, x_title="round", y_title="%"))
    dashes = [e.get("stroke-dasharray") for e in of_class(tree, "line") if e.tag == "path"]
    assert len(set(dashes)) == 3


def test_one_series_has_no_legend_and_none_no_chart() -> None:
    tree = parsed(line_chart("Loss", SERIES[1:2], x_title="round", y_title="loss"))
    assert "local-only" not in words(tree)
    assert line_chart("Loss", [Series("m", [], ZERO_SHOT)], x_title="round", y_title="loss") is None


def test_labels_stay_inside_the_drawing() -> None:
    series = [Series("m", [(0, 1), (100_000, 2)], method_look(0))]
    chart = line_chart("Loss", series, x_title="queries", y_title="loss")
    tree = parsed(chart)
    assert chart is not None
    [last] = [e for e in of_class(tree, "tick") if e.text == "100,000"]
    assert float(last.get("x") or 0) + 0.56 * 15 * 7 / 2 <= chart.width
