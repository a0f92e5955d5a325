"""Points stand where their numbers are, names cover no other point, and the front is of those nobody beats."""

import pytest

from promptfed.report.charts.look import method_look
from promptfed.report.charts.scatter import Point, pareto_front, scatter_plot

from .drawings import of_class, parsed, words


def test_the_front_is_of_those_nobody_beats() -> None:
    points = [(4.0, 70.0), (1.0, 50.0), (2.0, 40.0), (2.0, 60.0), (5.0, 70.0), (3.0, 60.0)]
    assert pareto_front(points) == [(1, 50), (2, 60), (4, 70)]
    assert pareto_front([]) == []


def test_points_levels_and_names() -> None:
    points = [Point(f"m{k}", 10.0**k, 50 + 10 * k, method_look(k), y_ends=(45 + 10 * k, 55 + 10 * k)) for k in range(3)]
    chart = scatter_plot("Accuracy against bytes", points, x_title="bytes", y_title="accuracy (%)", x_log=True,
                         y_level=60, front=pareto_front([(p.x, p.y) for p in points]))  # fmt: skip
    tree = parsed(chart)
    circle = of_class(tree, "mark")[0]
    square = of_class(tree, "mark")[1]
    assert circle.tag == "circle"
    xs = [float(pair.split(",")[0]) for pair in (square.get("points") or "").split()]
    ys = [float(pair.split(",")[1]) for pair in (square.get("points") or "").split()]
    [level] = of_class(tree, "thin")
    assert sum(ys) / 4 == pytest.approx(float(level.get("y1") or 0), abs=0.1)
    diamond = of_class(tree, "mark")[2]
    last = [float(pair.split(",")[0]) for pair in (diamond.get("points") or "").split()]
    assert sum(xs) / 4 == pytest.approx((float(circle.get("cx") or 0) + sum(last) / 4) / 2, abs=0.1)
    assert len(of_class(tree, "error")) == 3
    assert len(of_class(tree, "front")) == 1
    assert {"m0", "m1", "m2"} <= set(words(tree))
    assert chart is not None
    assert "m1: 60 at 10." in chart.description


def test_names_of_points_in_one_place_do_not_lie_on_each_other() -> None:
    points = [Point(f"method {k}", 50, 50, method_look(k)) for k in range(5)]
    tree = parsed(scatter_plot("x", points, x_title="x", y_title="y"))
    places = [(float(e.get("x") or 0), float(e.get("y") or 0)) for e in of_class(tree, "point-name")]
    for number, (x, y) in enumerate(places):
        assert all(abs(x - a) > 60 or abs(y - b) > 12 for a, b in places[:number])
    assert scatter_plot("x", [], x_title="x", y_title="y") is None
