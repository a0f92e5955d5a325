"""Local accuracy against accuracy elsewhere, a point a method: who wins at home by losing the rest is seen.

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
    """x: local (among all classes where clients with one class leave none), y: new classes (base ones where nothing is
    new), in %, with bars of one standard deviation.

    Zero-shot's level is drawn across. None if no run has finished.
    """
    methods = {name: found for name, found in summary["methods"].items() if found["runs"]}
    if not methods:
        return None
    other = "new" if all(found["new"] for found in methods.values()) else "base"
    home = "local" if all(found["local"] for found in methods.values()) else "local_all"
    if not all(found[home] for found in methods.values()):
        return None
    figure = Figure(figsize=(7.0, 5.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)
    points = {}
    for number, (name, found) in enumerate(methods.items()):
        x, y = (100 * found[key]["mean"] for key in (home, other))
        spread = [100 * (found[key]["std"] or 0) for key in (home, other)]
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
    what = "new classes, which no client saw" if other == "new" else "all base classes together"
    axes.set_ylabel(f"{other} accuracy (%): {what}")
    with any_script():
        label_points(figure, axes, [(name, x, y, colour) for name, (x, y, colour) in points.items()])
    return figure


def accuracy_by_queries(summary: Mapping[str, Any]) -> Figure | None:
    """Validation accuracy in % against the queries of training so far, means over seeds, a line a method; zero-shot is
    a level. None if no run asked a black box."""
    methods = {name: found for name, found in summary["methods"].items() if found.get("query_curve")}
    if not any(name != BASELINE for name in methods):
        return None
    figure = Figure(figsize=(7.0, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3)
    for number, (name, found) in enumerate(methods.items()):
        asked, accuracy = zip(*found["query_curve"], strict=True)
        if name == BASELINE:
            axes.axhline(100 * accuracy[-1], color=GREY, linestyle="--", label=figure_text(name, LONGEST_NAME))
            continue
        axes.plot(
            asked, [100 * value for value in accuracy], color=COLOURS[number % len(COLOURS)],
            marker=MARKERS[number % len(MARKERS)], markersize=4, linewidth=1.5, label=figure_text(name, LONGEST_NAME),
        )  # fmt: skip
    axes.set_xlim(left=0)
    axes.set_xlabel("queries of training, all clients together")
    axes.set_ylabel("validation accuracy (%), mean over clients")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4, frameon=False, fontsize=9)
    return figure


def label_points(figure: Figure, axes: Axes, points: Sequence[tuple[str, float, float, str]]) -> None:
    """Write each point's name where it covers other names and points least; far names get a thin line."""
    figure.draw_without_rendering()
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    places = axes.transData.transform([(x, y) for _, x, y, _ in points])
    taken = [Bbox.from_bounds(px - 5, py - 5, 10, 10) for px, py in places]
    frame = axes.get_window_extent(renderer)
    for name, x, y, colour in points:
        best: tuple[float, Any, Bbox] | None = None
        shown = figure_text(name, LONGEST_NAME)
        for distance, (dx, dy) in product(DISTANCES, DIRECTIONS):
            text = axes.annotate(
                shown, (x, y), (distance * dx, distance * dy), textcoords="offset points", color=colour, fontsize=9,
                ha=("right", "center", "left")[dx + 1], va=("top", "center", "bottom")[dy + 1],
                arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.5} if distance > 8 else None,
            )  # fmt: skip
            text.update_positions(renderer)
            box = Text.get_window_extent(text, renderer)  # the words alone, without the line to the point
            outside = area(box) - area(Bbox.intersection(box, frame))
            cost = sum(area(Bbox.intersection(box, other)) for other in taken) + outside + distance / 100
            if best is None or cost < best[0]:
                if best is not None:
                    best[1].remove()
                best = (cost, text, box)
            else:
                text.remove()
        assert best is not None
        taken.append(best[2])


def area(box: Bbox | None) -> float:
    return 0.0 if box is None else float(box.width * box.height)
