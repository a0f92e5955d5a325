"""The table of results: zero-shot, local-only and the method, on local, base and new classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

COLUMNS = ("local", "base", "new", "HM")
CAPTION = (
    "Test accuracy in %. local: each client on its own classes (mean ± standard deviation over clients); "
    "base: all training classes together; new: classes no client ever saw; "
    "HM: harmonic mean of local, base and new, low as soon as one of them is low."
)
ROWS = (("zero_shot", "zero-shot"), ("local_only", "local-only"), ("method", "method"))
"""Keys of metrics.json that are rows, and their labels if the figures have no name."""


@dataclass(frozen=True)
class ResultRow:
    """One row as text. ``note`` explains the label; ``cells`` stand under ``COLUMNS``; ``best`` marks the top ones."""

    label: str
    note: str
    cells: tuple[str, ...]
    best: tuple[bool, ...]


def percent(fraction: float | None) -> str:
    """``0.5312`` -> ``"53.1"``; None -> ``"-"``."""
    return "-" if fraction is None else f"{100 * fraction:.1f}"


def result_rows(metrics: Mapping[str, Any]) -> list[ResultRow]:
    """The rows of those of zero_shot, local_only and method that ``metrics`` has.

    A method that is itself a baseline gives one row, not two.
    """
    found = [(key, label, metrics[key]) for key, label in ROWS if metrics.get(key)]
    own = (metrics.get("method") or {}).get("name")
    found = [item for item in found if item[0] == "method" or item[2].get("name") != own]
    shown = [tuple(_shown(figures, column) for column in COLUMNS) for _, _, figures in found]
    top = [max((column[i] for column in shown if column[i] != "-"), key=float, default="") for i in range(len(COLUMNS))]
    return [
        ResultRow(
            label=figures.get("name") or label,
            note=_template(metrics, key, figures),
            cells=(_with_spread(cells[0], figures.get("local_std")), *cells[1:]),
            best=tuple(cell == best for cell, best in zip(cells, top, strict=True)),
        )
        for (key, label, figures), cells in zip(found, shown, strict=True)
    ]


def results_table(metrics: Mapping[str, Any]) -> Table:
    """For the terminal; the best figure of each column is bold."""
    from rich.table import Table
    from rich.text import Text

    table = Table(caption=CAPTION, caption_justify="left")
    table.add_column("")
    for column in COLUMNS:
        table.add_column(column, justify="right", no_wrap=True)
    for row in result_rows(metrics):
        # Text, not markup: a template may hold square brackets
        label = Text(row.label).append(f" {row.note}" if row.note else "", style="dim")
        table.add_row(label, *(Text(c, style="bold" if b else "") for c, b in zip(row.cells, row.best, strict=True)))
    return table


def results_markdown(metrics: Mapping[str, Any]) -> str:
    """The same as a Markdown table, with the caption below it."""
    lines = [f"| | {' | '.join(COLUMNS)} |", f"|---|{'---:|' * len(COLUMNS)}"]
    for row in result_rows(metrics):
        label = f"{row.label} {row.note}".strip().replace("|", "\\|")
        lines.append(f"| {label} | {' | '.join(row.cells)} |")
    return "\n".join([*lines, "", CAPTION, ""])


def _shown(figures: Mapping[str, Any], column: str) -> str:
    return percent(figures.get(column.lower()))


def _with_spread(mean: str, spread: float | None) -> str:
    return mean if mean == "-" or spread is None else f"{mean} ± {percent(spread)}"


def _template(metrics: Mapping[str, Any], key: str, figures: Mapping[str, Any]) -> str:
    is_zero_shot = key == "zero_shot" or figures.get("name") == "zero-shot"
    return f'"{metrics["template"]}"' if is_zero_shot and metrics.get("template") else ""
