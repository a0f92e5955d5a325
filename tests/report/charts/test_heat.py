"""Cells stand in their row and column, darker for larger numbers; 0 stays empty."""

from promptfed.report.charts.heat import CELL, DARKEST, heat_map

from .drawings import of_class, parsed, words


def test_cells_and_numbers() -> None:
    chart = heat_map("Confusion", "Most are right.", ["cat", "dog"], ["cat", "dog"], [[4, 0], [2, 1]],
                     row_title="true class", column_title="predicted class", outlined=[(0, 0), (1, 1)])  # fmt: skip
    tree = parsed(chart)
    frame = of_class(tree, "frame")[0]
    left, top = float(frame.get("x") or 0), float(frame.get("y") or 0)
    assert (frame.get("width"), frame.get("height")) == ("52", "52")
    places = {e.text: (float(e.get("x") or 0), float(e.get("y") or 0)) for e in of_class(tree, "cell")}
    assert places == {
        "4": (round(left + CELL / 2, 2), top + CELL / 2 + 4.5),
        "2": (round(left + CELL / 2, 2), top + 1.5 * CELL + 4.5),
        "1": (round(left + 1.5 * CELL, 2), top + 1.5 * CELL + 4.5),
    }
    shades = [float(e.get("fill-opacity") or 0) for e in of_class(tree, "heat")]
    assert shades == [round(DARKEST * share, 2) for share in (1 / 4, 2 / 4, 1)]
    assert len(of_class(tree, "outline")) == 2
    assert {"true class", "predicted class", "cat", "dog"} <= set(words(tree))
    assert chart.fixed


def test_shades_may_be_given_and_small_cells_have_no_numbers() -> None:
    chart = heat_map("Who holds what", "", ["a"] * 40, ["k"] * 30, [[1] * 30] * 40, row_title="clients",
                     column_title="classes", shades=[[1.0] * 30] * 40, cell=7)  # fmt: skip
    tree = parsed(chart)
    assert not of_class(tree, "cell")
    assert len(of_class(tree, "heat")) == 1
    assert len(of_class(tree, "name")) < 40


def test_nothing_but_zeros() -> None:
    chart = heat_map("Empty", "", ["a"], ["b"], [[0]], row_title="r", column_title="c")
    assert not of_class(parsed(chart), "heat")
