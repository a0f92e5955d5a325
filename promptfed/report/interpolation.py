"""Accuracy between the shared prompt and the clients' own: the curve of `promptfed personalize` as table and plot."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean
from typing import TYPE_CHECKING, Any

from promptfed.printable import markdown_cell, printable_lines
from promptfed.report.charts.lines import Series, line_chart
from promptfed.report.charts.look import Look, method_look
from promptfed.report.charts.svg import Chart
from promptfed.report.tables import percent, with_spread, without_empty

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.table import Table

COLUMNS = ("val", "local", "base", "new", "HM")
LINES = (("local", "#0072B2", "-", "o"), ("base", "#009E73", "--", "s"), ("new", "#D55E00", ":", "^"))
"""Curves: colours of Okabe and Ito, line styles and markers."""
CHOSEN = "each client's own"


def caption(curve: Mapping[str, Any]) -> str:
    """Return a sentence or two that explain the figures."""
    text = f"Accuracy in %, means over clients. alpha: share of a client's own prompt, mixed in {curve['space']} space "
    text += f"with what {curve['name']} shares after round {curve['round']} (0: the shared prompt alone). "
    training = curve.get("training")
    if training:
        text += f"Fine-tuned for {training['epochs']} epochs at learning rate {training['lr']:g}, "
        text += f"pull to the shared prompt {training['l2_to_global']:g}. "
    examples = curve.get("examples", "images")
    text += f"val: validation {examples}, by which each client picks its own alpha; the other columns are test "
    return f"{text}{examples}."


def curve_cells(curve: Mapping[str, Any]) -> tuple[list[str], list[tuple[str, tuple[str, ...]]]]:
    """Return the columns that have figures, and rows of (alpha, cells), the last with each client's own alpha."""
    rows = []
    for row in curve["rows"]:
        label = CHOSEN if row["alpha"] is None else f"{row['alpha']:g}"
        local = with_spread(percent(row["local"]), row["local_std"])
        rows.append((label, (percent(row["val"]), local, *(percent(row[key]) for key in ("base", "new", "hm")))))
    columns, cells = without_empty(COLUMNS, [row_cells for _, row_cells in rows])
    return columns, [(label, row_cells) for (label, _), row_cells in zip(rows, cells, strict=True)]


def chosen_cells(curve: Mapping[str, Any]) -> list[tuple[str, tuple[str, str]]]:
    """Return (client's name, (its alpha, why))."""
    return [(client["name"], (f"{client['alpha']:g}", client["why"])) for client in curve["clients"]]


def curve_table(curve: Mapping[str, Any]) -> Table:
    """Return the table for the terminal."""
    from rich.table import Table
    from rich.text import Text

    table = Table(caption=caption(curve), caption_justify="left")
    table.add_column("alpha")
    columns, (*fixed, last_row) = curve_cells(curve)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    for label, cells in fixed:
        table.add_row(label, *cells)
    table.add_section()
    table.add_row(*(Text(cell, style="bold") for cell in (last_row[0], *last_row[1])))
    return table


def curve_markdown(curve: Mapping[str, Any]) -> str:
    """Return the table as Markdown, with each client's alpha and the reason below it."""
    columns, rows = curve_cells(curve)
    lines = [f"| alpha | {' | '.join(columns)} |", f"|---|{'---:|' * len(columns)}"]
    lines += [f"| {label} | {' | '.join(cells)} |" for label, cells in rows]
    lines += ["", caption(curve), "", "| client | alpha | why |", "|---|---:|---|"]
    lines += [
        f"| {markdown_cell(name)} | {alpha} | {markdown_cell(why)} |" for name, (alpha, why) in chosen_cells(curve)
    ]
    return printable_lines("\n".join([*lines, ""]))


def curve_chart(curve: Mapping[str, Any]) -> Chart | None:
    """Draw local, base and new against alpha; dashed levels are those with each client's own alpha."""
    *fixed, last_row = curve["rows"]
    looks = {name: method_look(number) for number, (name, *_) in enumerate(LINES)}
    series = []
    for name, look in looks.items():
        points = [(row["alpha"], 100 * row[name]) for row in fixed if row[name] is not None]
        if points:
            series.append(Series(name, points, look))
            level = Look(look.colour, "2 3", look.marker)
            series.append(Series(f"{name}, own alphas", [(0.0, 100 * last_row[name])], level, is_level=True))
    return line_chart(
        "Accuracy against alpha",
        series,
        x_title="alpha (0: shared prompt, 1: the client's own)",
        y_title="test accuracy (%)",
        x_integer=False,
        y_words=lambda value: f"{value:.1f}".removesuffix(".0"),
    )


def curve_figure(curve: Mapping[str, Any]) -> Figure:
    """Plot local, base and new against alpha; a diamond marks the accuracy with each client's own alpha."""
    from promptfed.report.figures import canvas, legend

    figure, axes = canvas(3.2)
    *fixed, last_row = curve["rows"]
    middle = fmean(client["alpha"] for client in curve["clients"])
    for name, colour, line, marker in LINES:
        points = [(row["alpha"], 100 * row[name]) for row in fixed if row[name] is not None]
        if not points:
            continue
        axes.plot(*zip(*points, strict=True), color=colour, linestyle=line, marker=marker, markersize=4, label=name)
        axes.plot([middle], [100 * last_row[name]], color=colour, marker="D", markersize=8, markeredgecolor="black")
    axes.plot([], [], color="white", marker="D", markersize=8, markeredgecolor="black", label=CHOSEN)
    axes.set_xlabel("alpha (0: shared prompt, 1: the client's own)")
    axes.set_ylabel("test accuracy (%)")
    axes.grid(alpha=0.3)
    legend(axes, columns=2)
    return figure
