"""Local accuracy against accuracy on other classes, a point a method: it shows who gains locally and loses elsewhere.

Colours repeat after eight methods, so every point has its name beside it and a marker of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from promptfed.printable import figure_text
from promptfed.report.figures import any_script

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#7f7f7f")
MARKERS = "os^DvP*Xhp<>"
BASELINE = "zero_shot"
GREY = "#7f7f7f"
LONGEST_NAME = 40  # characters
DISTANCES = (8, 20, 34, 50, 66)  # points between a marker and its name
DIRECTIONS = ((1, 1), (-1, 1), (1, -1), (-1, -1), (1, 0), (-1, 0), (0, 1), (0, -1))  # off the error bars first


def trade_off(summary: Mapping[str, Any]) -> Figure | None:
    """Plot accuracy elsewhere against local accuracy, in %, with bars of one standard deviation.

    x: local (among all classes if clients with one class leave none), y: new classes (base ones if there are no new
    ones). Zero-shot's level is drawn across. None if no run has finished.
    """
    methods = {name: entry for name, entry in summary["methods"].items() if entry["runs"]}
    if not methods:
        return None
    measure = "new" if all(entry["new"] for entry in methods.values()) else "base"
    home = "local" if all(entry["local"] for entry in methods.values()) else "local_all"
    if not all(entry[home] for entry in methods.values()):
        return None
    figure = Figure(figsize=(7.0, 5.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)
    points = {}
    for number, (name, entry) in enumerate(methods.items()):
        x, y = (100 * entry[key]["mean"] for key in (home, measure))
        spread = [100 * (entry[key]["std"] or 0) for key in (home, measure)]
        colour = GREY if name == BASELINE else COLOURS[number % len(COLOURS)]
        axes.errorbar(
            x, y, xerr=spread[0], yerr=spread[1], color=colour, marker=MARKERS[number % len(MARKERS)],
            markersize=7, capsize=2, elinewidth=0.8, linestyle="none",
        )  # fmt: skip
        points[name] = (x, y, colour)
    if BASELINE in points:
        axes.axvline(points[BASELINE][0], color=GREY, linestyle="--", linewidth=0.8)
        axes.axhline(points[BASELINE][1], color=GREY, linestyle="--", linewidth=0.8)
    axes.margins(0.12)
    among = "own classes" if home == "local" else "own test examples among all classes"
    axes.set_xlabel(f"local accuracy (%): each client on its {among}")
    description = "new classes, which no client saw" if measure == "new" else "all base classes together"
    axes.set_ylabel(f"{measure} accuracy (%): {description}")
    with any_script():
        label_points(figure, axes, [(name, x, y, colour) for name, (x, y, colour) in points.items()])
    return figure


def accuracy_by_queries(summary: Mapping[str, Any]) -> Figure | None:
    """Plot validation accuracy in % against the training queries so far, means over seeds, a line a method.

    Zero-shot is a level. None if no run asked a black box.
    """
    methods = {name: entry for name, entry in summary["methods"].items() if entry.get("query_curve")}
    if not any(name != BASELINE for name in methods):
        return None
    figure = Figure(figsize=(7.0, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3)
    for number, (name, entry) in enumerate(methods.items()):
        queries, accuracy = zip(*entry["query_curve"], strict=True)
        if name == BASELINE:
            axes.axhline(100 * accuracy[-1], color=GREY, linestyle="--", label=figure_text(name, LONGEST_NAME))
            continue
        axes.plot(
            queries, [100 * value for value in accuracy], color=COLOURS[number % len(COLOURS)],
            marker=MARKERS[number % len(MARKERS)], markersize=4, linewidth=1.5, label=figure_text(name, LONGEST_NAME),
        )  # fmt: skip
    axes.set_xlim(left=0)
    axes.set_xlabel("queries of training, all clients together")
    axes.set_ylabel("validation accuracy (%), mean over clients")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4, frameon=False, fontsize=9)
    return figure


def label_points(figure: Figure, axes: Axes, points: Sequence[tuple[str, float, float, str]]) -> None:
    """Write each point's name where it covers least; a name far from its point gets a thin line."""
    figure.draw_without_rendering()
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    places = axes.transData.transform([(x, y) for _, x, y, _ in points])
    boxes = [Bbox.from_bounds(px - 5, py - 5, 10, 10) for px, py in places]
    frame = axes.get_window_extent(renderer)
    for name, x, y, colour in points:
        best: tuple[float, Any, Bbox] | None = None
        words = figure_text(name, LONGEST_NAME)
        for distance, (dx, dy) in product(DISTANCES, DIRECTIONS):
            text = axes.annotate(
                words, (x, y), (distance * dx, distance * dy), textcoords="offset points", color=colour, fontsize=9,
                ha=("right", "center", "left")[dx + 1], va=("top", "center", "bottom")[dy + 1],
                arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.5} if distance > 8 else None,
            )  # fmt: skip
            text.update_positions(renderer)
            box = Text.get_window_extent(text, renderer)  # the words alone, without the line to the point
            outside = area(box) - area(Bbox.intersection(box, frame))
            cost = sum(area(Bbox.intersection(box, obstacle)) for obstacle in boxes) + outside + distance / 100
            if best is None or cost < best[0]:
                if best is not None:
                    best[1].remove()
                best = (cost, text, box)
            else:
                text.remove()
        assert best is not None
        boxes.append(best[2])


def area(box: Bbox | None) -> float:
    """Return the area of ``box``; 0 for None."""
    return 0.0 if box is None else float(box.width * box.height)
