"""What charts share: axes with ticks, grid lines and titles, and the legend above."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from promptfed.printable import printable
from promptfed.report.charts.look import Look, marker
from promptfed.report.charts.scale import Scale, short_number
from promptfed.report.charts.svg import FONT, Svg, element, group, text_width

WIDTH = 480.0
"""Of a chart that fills half a page; as large on a phone as the page allows."""
LEGEND_ROW = 21.0
LONGEST_LABEL = 28
"""Characters of a series' or client's name in a chart."""
SWATCH = 26.0
BELOW = 46.0
"""Room below the axes: tick labels and the title of the axis."""

Words = Callable[[float], str]


def legend(entries: Sequence[tuple[str, Look]], width: float, *, bars: int | None = None) -> tuple[Svg, float]:
    """Return the legend of ``entries`` in rows above a chart, and how high it is; nothing for a single entry.

    ``bars``: the first so many are bars and the rest markers; None: all are lines.
    """
    if len(entries) < 2:
        return Svg(""), 8.0
    x, y, parts = 4.0, 4.0, []
    for place, (label, look) in enumerate(entries):
        words = printable(label, LONGEST_LABEL)
        size = SWATCH + 7 + text_width(words) + 12
        if x > 4 and x + size > width:
            x, y = 4.0, y + LEGEND_ROW
        middle = y + 8
        if bars is None:
            dash, css = look.dash or None, f"line {look.css}"
            parts.append(element("line", x1=x, x2=x + SWATCH, y1=middle, y2=middle, class_=css, stroke_dasharray=dash))
        if bars is not None and place < bars:
            parts.append(element("rect", x=x, y=middle - 5, width=SWATCH, height=10, class_=f"bar {look.css}"))
        else:
            parts.append(marker(look, x + SWATCH / 2, middle))
        parts.append(text(words, x + SWATCH + 7, middle + 4.5))
        x += size
    return group(*parts, class_="legend"), y + LEGEND_ROW + 4


def text(words: str, x: float, y: float, anchor: str = "start", css: str = "", **attributes: object) -> Svg:
    """Return ``words`` with their base line at a point."""
    return element("text", words, x=x, y=y, text_anchor=None if anchor == "start" else anchor, class_=css or None,
                   **attributes)  # fmt: skip


def x_axis(scale: Scale, title: str, top: float, bottom: float, words: Words = short_number) -> Svg:
    """Return the axis at the bottom: ticks with labels, grid lines up to ``top``, and the title with its unit."""
    parts = []
    room, last = 8.0, -1e9
    for tick in scale.ticks:
        x, label = scale.place(tick), words(tick)
        parts.append(element("line", x1=x, x2=x, y1=top, y2=bottom, class_="grid"))
        half = text_width(label) / 2
        if x - half >= last + room:
            parts.append(text(label, x, bottom + 17, "middle", "tick"))
            last = x + half
    parts.append(element("line", x1=scale.start, x2=scale.end, y1=bottom, y2=bottom, class_="axis"))
    parts.append(text(title, (scale.start + scale.end) / 2, bottom + 38, "middle", "axis-title"))
    return group(*parts)


def y_axis(scale: Scale, title: str, left: float, right: float, words: Words = short_number) -> Svg:
    """Return the axis on the left: ticks with labels, grid lines to ``right``, and the title turned upwards."""
    parts = []
    for tick in scale.ticks:
        y = scale.place(tick)
        parts.append(element("line", x1=left, x2=right, y1=y, y2=y, class_="grid"))
        parts.append(text(words(tick), left - 7, y + 0.36 * FONT, "end", "tick"))
    middle = (scale.start + scale.end) / 2
    parts.append(text(title, 0, 0, "middle", "axis-title", transform=f"translate(13 {middle:.1f}) rotate(-90)"))
    return group(*parts)


def right_end(scale: Scale, width: float, words: Words = short_number) -> float:
    """Return where an axis of ``scale`` ends so that the label of its last tick is inside the drawing."""
    if not scale.ticks:
        return scale.end
    last = scale.ticks[-1]
    over = scale.place(last) + text_width(words(last)) / 2 - (width - 2)
    return scale.end - max(0.0, over)


def left_room(scale: Scale, words: Words = short_number) -> float:
    """Return how much room the labels and the title of a y axis need."""
    return 30 + max((text_width(words(tick)) for tick in scale.ticks), default=10)
