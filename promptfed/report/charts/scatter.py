"""A scatter plot: a point a method with its name and error bars, levels, and the line of those nobody beats."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from promptfed.printable import printable
from promptfed.report.charts.frame import BELOW, LONGEST_LABEL, Words, left_room, right_end, text, x_axis, y_axis
from promptfed.report.charts.look import Look, marker
from promptfed.report.charts.scale import Scale, linear_scale, log_scale, short_number
from promptfed.report.charts.svg import FONT, NARROW_FONT, Chart, Svg, element, group, listed_series, text_width

DISTANCES = (9, 20, 34, 50, 66)
DIRECTIONS = ((1, 1), (1, -1), (-1, 1), (-1, -1), (1, 0), (-1, 0), (0, 1), (0, -1))
Box = tuple[float, float, float, float]
"""Left, top, right, bottom."""


@dataclass(frozen=True)
class Point:
    """A point with its name, and the ends of its error bars along both axes (None for none)."""

    label: str
    x: float
    y: float
    look: Look
    x_ends: tuple[float, float] | None = None
    y_ends: tuple[float, float] | None = None


def scatter_plot(
    title: str,
    points: Sequence[Point],
    *,
    x_title: str,
    y_title: str,
    x_log: bool = False,
    x_level: float | None = None,
    y_level: float | None = None,
    front: Sequence[tuple[float, float]] = (),
    x_words: Words = short_number,
    y_words: Words = short_number,
    note: str = "",
    width: float = 560.0,
    height: float = 380.0,
) -> Chart | None:
    """Draw ``points``, each with its name beside it; None for none.

    Args:
        title: What the chart is of.
        points: What is drawn; with ``x_log`` every x is above 0.
        x_title: Title of the axis below, with its unit.
        y_title: Title of the axis on the left, with its unit.
        x_log: Equal ratios of x are equally far apart.
        x_level: A value of x that is drawn across, such as zero-shot's.
        y_level: A value of y that is drawn across.
        front: Points in rising order of x that are joined by steps: those that no other point beats on both axes.
        x_words: Formats a value of x.
        y_words: Formats a value of y.
        note: A last sentence of the description.
        width: Of the drawing.
        height: Of the drawing.
    """
    if not points:
        return None
    top, bottom = 12.0, height - BELOW
    y_values = [v for p in points for v in (p.y, *(p.y_ends or ()))] + ([] if y_level is None else [y_level])
    y = linear_scale(y_values, bottom, top)
    left, right = left_room(y, y_words), width - 16
    x_values = [v for p in points for v in (p.x, *(p.x_ends or ()))] + ([] if x_level is None else [x_level])
    x = _along(x_values, left, right, x_log)
    right = right_end(x, width, x_words)
    x = _along(x_values, left, right, x_log)
    parts = [x_axis(x, x_title, top, bottom, x_words), y_axis(y, y_title, left, right, y_words)]
    if x_level is not None:
        parts.append(_level(x.place(x_level), top, x.place(x_level), bottom))
    if y_level is not None:
        parts.append(_level(left, y.place(y_level), right, y.place(y_level)))
    if len(front) > 1:
        steps = f"M{x.place(front[0][0]):.1f} {y.place(front[0][1]):.1f}"
        steps += "".join(f"H{x.place(a):.1f}V{y.place(b):.1f}" for a, b in front[1:])
        parts.append(element("path", d=steps, class_="front"))
    parts += [_errors(point, x, y) for point in points]
    for point in points:
        hint = element("title", _sentence(point, x_words, y_words))
        parts.append(marker(point.look, x.place(point.x), y.place(point.y), 5.0, hint))
    parts += _names(points, x, y, (left, top, right, bottom))
    sentences = [_sentence(point, x_words, y_words) for point in points]
    description = f"Scatter plot of {y_title} against {x_title}. {listed_series(sentences, 20)} {note}".rstrip()
    return Chart(title, description, width, height, Svg("".join(parts)))


def _along(values: Sequence[float], start: float, end: float, is_log: bool) -> Scale:
    return log_scale(values, start, end) if is_log else linear_scale(values, start, end)


def _level(x1: float, y1: float, x2: float, y2: float) -> Svg:
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_="line thin c0", stroke_dasharray="5 4")


def _errors(point: Point, x: Scale, y: Scale) -> Svg:
    here, there, lines = x.place(point.x), y.place(point.y), ""
    if point.x_ends is not None:
        low, high = map(x.place, point.x_ends)
        lines += f"M{low:.1f} {there:.1f}H{high:.1f}"
    if point.y_ends is not None:
        low, high = map(y.place, point.y_ends)
        lines += f"M{here:.1f} {low:.1f}V{high:.1f}"
    return element("path", d=lines, class_=f"error {point.look.css}") if lines else Svg("")


def _names(points: Sequence[Point], x: Scale, y: Scale, frame: Box) -> list[Svg]:
    """Write each name where it covers least; one far from its point gets a thin line."""
    taken: list[Box] = []
    for point in points:
        px, py = x.place(point.x), y.place(point.y)
        taken.append((px - 6, py - 6, px + 6, py + 6))
    parts = []
    for point in points:
        words = printable(point.label, LONGEST_LABEL)
        px, py, size = x.place(point.x), y.place(point.y), text_width(words)
        best: tuple[float, Box, int] | None = None
        for distance, (dx, dy) in product(DISTANCES, DIRECTIONS):
            across, down = px + distance * dx, py - distance * dy
            begin = across - size * (1 - dx) / 2
            box = (begin, down - NARROW_FONT / 2, begin + size, down + NARROW_FONT / 2)
            outside = _area(box) - _shared(box, frame)
            cost = sum(_shared(box, other) for other in taken) + 3 * outside + distance / 100
            if best is None or cost < best[0]:
                best = (cost, box, distance)
        assert best is not None
        _, box, distance = best
        taken.append(box)
        middle = (box[0] + box[2]) / 2
        if distance > DISTANCES[0]:
            near = min(max(px, box[0]), box[2])
            parts.append(element("line", x1=px, y1=py, x2=near, y2=(box[1] + box[3]) / 2, class_="leader"))
        parts.append(
            text(words, middle, box[3] - (NARROW_FONT - FONT) / 2 - 3, "middle", f"point-name {point.look.css}")
        )
    return [group(*parts)]


def _area(box: Box) -> float:
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])


def _shared(one: Box, other: Box) -> float:
    """Return the area that two boxes share."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return width * height if width > 0 and height > 0 else 0.0


def _sentence(point: Point, x_words: Words, y_words: Words) -> str:
    return f"{printable(point.label, LONGEST_LABEL)}: {y_words(point.y)} at {x_words(point.x)}."


def pareto_front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the points that no other one beats by a smaller x and as large a y, in rising order of x."""
    front: list[tuple[float, float]] = []
    for x, y in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or y > front[-1][1]:
            front.append((x, y))
    return front
