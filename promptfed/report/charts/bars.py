"""Horizontal bars with 95 % intervals, and markers for what they are compared with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from promptfed.printable import printable
from promptfed.report.charts.frame import BELOW, LONGEST_LABEL, WIDTH, Words, legend, right_end, text, x_axis
from promptfed.report.charts.look import Look, marker
from promptfed.report.charts.scale import Scale, linear_scale, short_number
from promptfed.report.charts.svg import Chart, Svg, element, group, listed_series, text_width

ROW = 26.0
BAR = 13.0


@dataclass(frozen=True)
class Bar:
    """A row.

    Attributes:
        label: Its name, on the left.
        value: Where its bar ends; None draws none.
        interval: Its 95 % interval; None for none.
        marks: Name of another series -> its value in this row.
        note: A word at the right end of the row.
    """

    label: str
    value: float | None
    interval: tuple[float, float] | None = None
    marks: Mapping[str, float] = field(default_factory=dict)
    note: str = ""


def bar_chart(
    title: str,
    bars: Sequence[Bar],
    *,
    x_title: str,
    series: tuple[str, Look],
    marks: Mapping[str, Look] | None = None,
    limits: tuple[float, float] = (0.0, 100.0),
    words: Words = short_number,
    width: float = WIDTH,
) -> Chart | None:
    """Draw ``bars`` one below the other; None for none.

    Args:
        title: What the chart is of.
        bars: The rows, from the top.
        x_title: Title of the axis below, with its unit.
        series: Name and look of the bars.
        marks: Name -> look of the series that are drawn as markers.
        limits: Ends of the axis.
        words: Formats a value.
        width: Of the drawing.
    """
    if not bars:
        return None
    marks = marks or {}
    head, top = legend([series, *marks.items()], width, bars=1)
    labels = [printable(bar.label, LONGEST_LABEL) for bar in bars]
    left = min(12 + max(text_width(label) for label in labels), 0.44 * width)
    right = width - 14 - max(text_width(bar.note) for bar in bars)
    bottom = top + ROW * len(bars) + 4
    x = linear_scale((), left, right, limits=limits, most_ticks=6)
    x = linear_scale((), left, right_end(x, width, words), limits=limits, most_ticks=6)
    parts = [x_axis(x, x_title, top, bottom, words), head]
    for row, bar in enumerate(bars):
        parts.append(_row(bar, top + ROW * (row + 0.5) + 2, x, series[1].css, marks, words))
    sentences = [_sentence(bar, words) for bar in bars]
    description = f"Bars of {x_title}, {series[0]}, {len(bars)} rows from the top. {listed_series(sentences)}"
    return Chart(title, description, width, bottom + BELOW, Svg("".join(parts)))


def _row(
    bar: Bar,
    middle: float,
    scale: Scale,
    colour: str,
    marks: Mapping[str, Look],
    words: Words,
) -> Svg:
    """Draw one row around the height ``middle``."""
    left, right = scale.start, scale.end
    label = printable(bar.label, LONGEST_LABEL)
    most = max(6, int((left - 12) / text_width("n")))
    parts = [text(printable(label, most), left - 7, middle + 4.5, "end", "name")]
    if bar.value is not None:
        hint, length = element("title", _sentence(bar, words)), max(scale.place(bar.value) - left, 0.5)
        style = f"bar {colour}"
        parts.append(element("rect", hint, x=left, y=middle - BAR / 2, width=length, height=BAR, class_=style))
        if bar.interval is not None:
            low, high = map(scale.place, bar.interval)
            d = f"M{low:.1f} {middle:.1f}H{high:.1f}M{low:.1f} {middle - 4:.1f}v8M{high:.1f} {middle - 4:.1f}v8"
            parts.append(element("path", d=d, class_="whisker"))
    for name, value in bar.marks.items():
        hint = element("title", f"{label}, {name}: {words(value)}")
        parts.append(marker(marks[name], scale.place(value), middle, 3.5, hint))
    if bar.note:
        parts.append(text(bar.note, right + 8, middle + 4.5, css="note"))
    return group(*parts)


def _sentence(bar: Bar, words: Words) -> str:
    label = printable(bar.label, LONGEST_LABEL)
    if bar.value is None:
        return f"{label}: {bar.note or 'no value'}."
    ends = "" if bar.interval is None else f" ({words(bar.interval[0])} to {words(bar.interval[1])})"
    return f"{label}: {words(bar.value)}{ends}{f', {bar.note}' if bar.note else ''}."
