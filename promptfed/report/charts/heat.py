"""A heat map: a grid of shaded cells, such as a confusion matrix or a partition."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from promptfed.printable import printable
from promptfed.report.charts.frame import text
from promptfed.report.charts.svg import FONT, Chart, element, group, number, text_width

CELL, NUMBERED = 26.0, 20.0
"""Side of a cell, and the smallest that has a number."""
SMALLEST_CELL = 7.0
LONGEST_NAME = 24
DARKEST = 0.62
"""Opacity of the strongest shade: letters in ink are readable on it, on a light page and on a dark one."""
LEVELS = 12
"""Different shades."""


def heat_map(
    title: str,
    description: str,
    rows: Sequence[str],
    columns: Sequence[str],
    cells: Sequence[Sequence[float]],
    *,
    row_title: str,
    column_title: str,
    shades: Sequence[Sequence[float]] | None = None,
    outlined: Sequence[tuple[int, int]] = (),
    cell: float = CELL,
) -> Chart:
    """Draw a grid of ``cells``, a number in each where there is room; a cell of 0 stays empty.

    Args:
        title: What the chart is of.
        description: What it shows, in words.
        rows: Names of the rows, from the top.
        columns: Names of the columns, from the left.
        cells: The numbers, rows of columns.
        row_title: What the rows are.
        column_title: What the columns are.
        shades: How dark each cell is, in 0..1; None: its number beside the largest.
        outlined: (row, column) of cells with a frame.
        cell: Side of a cell; below ``NUMBERED`` no numbers are drawn.
    """
    largest = max((value for row in cells for value in row), default=0) or 1
    shades = [[value / largest for value in row] for row in cells] if shades is None else shades
    names = [printable(name, LONGEST_NAME) for name in rows]
    heads = [printable(name, LONGEST_NAME) for name in columns]
    every = max(1, -(-14 // int(cell))) if cell < 14 else 1
    left = 34 + max((text_width(name, 13) for name in names), default=0)
    top = 30 + max((text_width(head, 13) for head in heads), default=0)
    width, height = left + cell * len(columns) + 8, top + cell * len(rows) + 8
    parts = []
    for row, name in enumerate(names[::every]):
        parts.append(text(name, left - 6, top + cell * (every * row + 0.5) + 4.5, "end", "name"))
    for column, head in enumerate(heads[::every]):
        place = f"translate({left + cell * (every * column + 0.5) + 4:.1f} {top - 6:.1f}) rotate(-90)"
        parts.append(text(head, 0, 0, css="name", transform=place))
    by_level: dict[int, list[str]] = defaultdict(list)
    numbers = []
    for row, values in enumerate(cells):
        for column, value in enumerate(values):
            if not value:
                continue
            x, y = left + cell * column, top + cell * row
            level = max(1, round(LEVELS * min(1.0, shades[row][column])))
            by_level[level].append(f"M{number(x)} {number(y)}h{number(cell)}v{number(cell)}h-{number(cell)}z")
            label = f"{value:,.0f}"
            if cell >= NUMBERED and text_width(label, FONT) <= cell - 1:
                numbers.append(text(label, x + cell / 2, y + cell / 2 + 4.5, "middle", "cell"))
    parts.append(element("rect", x=left, y=top, width=cell * len(columns), height=cell * len(rows), class_="frame"))
    for level, paths in sorted(by_level.items()):
        parts.append(element("path", d="".join(paths), class_="heat", fill_opacity=DARKEST * level / LEVELS))
    if cell >= SMALLEST_CELL:
        parts.append(element("path", d=_grid(left, top, cell, len(rows), len(columns)), class_="grid"))
    for row, column in outlined:
        x, y = left + cell * column, top + cell * row
        parts.append(element("rect", x=x + 0.5, y=y + 0.5, width=cell - 1, height=cell - 1, class_="outline"))
    parts += numbers
    middle = top + cell * len(rows) / 2
    parts.append(text(column_title, left, 14, css="axis-title"))
    parts.append(text(row_title, 0, 0, "middle", "axis-title", transform=f"translate(14 {middle:.1f}) rotate(-90)"))
    return Chart(title, description, max(width, left + text_width(column_title, 13)), height, group(*parts), fixed=True)


def _grid(left: float, top: float, cell: float, rows: int, columns: int) -> str:
    across = (f"M{number(left)} {number(top + cell * k)}h{number(cell * columns)}" for k in range(rows + 1))
    down = (f"M{number(left + cell * k)} {number(top)}v{number(cell * rows)}" for k in range(columns + 1))
    return "".join((*across, *down))
