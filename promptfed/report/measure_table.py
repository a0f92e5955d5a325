"""The table of measures besides accuracy: a row for each measure and each of zero-shot, local-only and the method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from promptfed.printable import plain_text, printable
from promptfed.report.tables import (
    LOCAL_ALL,
    ResultRow,
    meanings,
    percent,
    shown_stages,
    styled_cells,
    with_spread,
    without_empty,
    without_repeated,
)

if TYPE_CHECKING:
    from rich.table import Table

COLUMNS = {"local": "local", LOCAL_ALL: "local_all", "base": "base", "new": "new"}
"""Column -> its key in a measure's figures."""
SHARE = "%"


def measure_rows(metrics: Mapping[str, Any]) -> tuple[list[str], list[ResultRow]]:
    """Return the columns that hold anything, and the rows, each labelled "measure, stage"; none without measures.

    The best of each column and measure is marked: the highest or the lowest, as the measure says.
    """
    about: Mapping[str, Mapping[str, str]] = metrics.get("measures") or {}
    stages = shown_stages(metrics)
    labels: list[tuple[str, str]] = []
    cells: list[list[str]] = []
    marks: list[tuple[bool, ...]] = []
    for name, measure in about.items():
        each = [(figures.get("measures") or {}).get(name) or {} for _, _, figures in stages]
        values = [[figures.get(key) for key in COLUMNS.values()] for figures in each]
        marks += best_of(values, measure["better"])
        cells += [
            [shown_figure(figures.get(key), figures.get(f"{key}_std"), measure["unit"]) for key in COLUMNS.values()]
            for figures in each
        ]
        title = printable(measure["name"], 40) + (f" ({printable(measure['unit'], 20)})" if measure["unit"] else "")
        labels += [
            (f"{title}, {measure['better']} is better", figures.get("name") or label) for _, label, figures in stages
        ]
    repeated = without_repeated(cells)
    columns, visible = without_empty(list(COLUMNS), repeated)
    places = [list(COLUMNS).index(column) for column in columns]
    return columns, [
        ResultRow(stage, title, row, tuple(mark[index] for index in places))
        for (title, stage), row, mark in zip(labels, visible, marks, strict=True)
    ]


def measure_caption(metrics: Mapping[str, Any], columns: Sequence[str]) -> str:
    """Return an explanation of the columns."""
    return f"Other measures. {meanings(metrics, columns)}"


def measure_table(metrics: Mapping[str, Any]) -> Table:
    """Return the table for the terminal; the best of each column and measure is bold."""
    from rich.table import Table

    columns, rows = measure_rows(metrics)
    table = Table(caption=measure_caption(metrics, columns), caption_justify="left")
    table.add_column("measure")
    table.add_column("")
    for column in columns:
        table.add_column(column.replace(" (", "\n("), justify="right", no_wrap=True)
    previous = ""
    for row in rows:
        title = "" if row.note == previous else row.note
        table.add_row(plain_text(title), plain_text(row.label), *styled_cells(row))
        previous = row.note
    return table


def shown_figure(value: float | None, spread: float | None, unit: str) -> str:
    """Format a figure and its spread; shares in per cent."""
    if value is None or unit == SHARE:
        return with_spread(percent(value), spread)
    return f"{value:.3f}" if spread is None else f"{value:.3f} ± {spread:.3f}"


def best_of(rows: Sequence[Sequence[float | None]], better: str) -> list[tuple[bool, ...]]:
    """Return where the best figure of each column stands, the highest or the lowest."""
    pick = max if better == "higher" else min
    top = [pick((v for v in column if v is not None), default=None) for column in zip(*rows, strict=True)]
    return [tuple(v is not None and v == best for v, best in zip(row, top, strict=True)) for row in rows]
