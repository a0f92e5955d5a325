"""A line chart: several series over one axis, levels drawn across, and bands around a line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from promptfed.printable import printable
from promptfed.report.charts.frame import (
    BELOW,
    LONGEST_LABEL,
    WIDTH,
    Words,
    left_room,
    legend,
    right_end,
    x_axis,
    y_axis,
)
from promptfed.report.charts.look import Look, marker
from promptfed.report.charts.scale import linear_scale, short_number
from promptfed.report.charts.svg import Chart, Svg, element, group, listed_series, number

MOST_MARKED = 40
"""Points of a line that have markers."""


@dataclass(frozen=True)
class Series:
    """A line.

    Attributes:
        label: Its name in the legend.
        points: (x, y) in rising order of x; finite.
        look: Its colour, dash and marker.
        is_level: It has one value, drawn across the whole chart (a baseline without rounds).
        band: (low, high) of each point, drawn as a shade around the line; empty for none.
    """

    label: str
    points: Sequence[tuple[float, float]]
    look: Look
    is_level: bool = False
    band: Sequence[tuple[float, float]] = ()


def line_chart(
    title: str,
    series: Sequence[Series],
    *,
    x_title: str,
    y_title: str,
    x_integer: bool = True,
    x_start: float | None = None,
    y_limits: tuple[float | None, float | None] = (None, None),
    x_words: Words = short_number,
    y_words: Words = short_number,
    width: float = WIDTH,
    height: float = 270.0,
) -> Chart | None:
    """Draw ``series``; None if no series has a point.

    Args:
        title: What the chart is of.
        series: Its lines, in the order of the legend.
        x_title: Title of the axis below, with its unit.
        y_title: Title of the axis on the left, with its unit.
        x_integer: The values of x are whole numbers, such as rounds.
        x_start: Where the axis below begins; None: at the first point.
        y_limits: Fixed ends of the axis on the left.
        x_words: Formats a value of x.
        y_words: Formats a value of y.
        width: Of the drawing.
        height: Of the drawing without its legend.
    """
    present = [one for one in series if one.points]
    if not present:
        return None
    head, top = legend([(one.label, one.look) for one in present], width)
    bottom = top + height - BELOW
    values = [y for one in present for _, y in one.points] + [
        end for one in present for ends in one.band for end in ends
    ]
    y = linear_scale(values, bottom, top + 6, limits=y_limits)
    left, right = left_room(y, y_words), width - 16
    along = [x for one in present if not one.is_level for x, _ in one.points] or [0.0, 1.0]
    x_limits = (x_start, None)
    x = linear_scale(along, left, right, integer=x_integer, limits=x_limits, most_ticks=8)
    right = right_end(x, width, x_words)
    x = linear_scale(along, left, right, integer=x_integer, limits=x_limits, most_ticks=8)
    parts = [x_axis(x, x_title, top + 6, bottom, x_words), y_axis(y, y_title, left, right, y_words), head]
    for one in present:
        if one.is_level:
            places = [(left, y.place(one.points[-1][1])), (right, y.place(one.points[-1][1]))]
        else:
            places = [(x.place(a), y.place(b)) for a, b in one.points]
        drawn = [element("path", _title(one, x_title, y_words), d=_path(places), class_=f"line {one.look.css}",
                         stroke_dasharray=one.look.dash or None)]  # fmt: skip
        if one.band and not one.is_level:
            outline = [(px, y.place(high)) for (px, _), (_, high) in zip(places, one.band, strict=True)]
            outline += [(px, y.place(low)) for (px, _), (low, _) in zip(places, one.band, strict=True)][::-1]
            drawn.insert(0, element("path", d=_path(outline) + "Z", class_=f"band {one.look.css}"))
        if not one.is_level and len(places) <= MOST_MARKED:
            for (a, b), (px, py) in zip(one.points, places, strict=True):
                hint = element("title", f"{one.label}, {x_title} {x_words(a)}: {y_words(b)}")
                drawn.append(marker(one.look, px, py, 3.0, hint))
        parts.append(group(*drawn))
    sentences = [_sentence(one, x_title, x_words, y_words) for one in present]
    description = f"Line chart of {y_title} by {x_title}. {listed_series(sentences)}"
    return Chart(title, description, width, bottom + BELOW, Svg("".join(parts)))


def _path(places: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{number(a)} {number(b)}" for a, b in places)


def _title(one: Series, x_title: str, words: Words) -> Svg:
    ending = f": {words(one.points[-1][1])}" if one.is_level else ""
    return element("title", printable(one.label, LONGEST_LABEL) + ending)


def _sentence(one: Series, x_title: str, x_words: Words, y_words: Words) -> str:
    """Return what a line does, in words."""
    label, (first_x, first), (last_x, last) = printable(one.label, LONGEST_LABEL), one.points[0], one.points[-1]
    if one.is_level:
        return f"{label}: {y_words(last)} throughout."
    if len(one.points) == 1:
        return f"{label}: {y_words(last)} at {x_words(last_x)}."
    low, high = min(one.points, key=lambda point: point[1]), max(one.points, key=lambda point: point[1])
    return (
        f"{label}: from {y_words(first)} at {x_words(first_x)} to {y_words(last)} at {x_words(last_x)}, lowest "
        f"{y_words(low[1])} at {x_words(low[0])}, highest {y_words(high[1])} at {x_words(high[0])}."
    )
