"""The partition in a report: who holds how many training examples of which class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from promptfed.printable import printable
from promptfed.report.charts.heat import CELL, SMALLEST_CELL, heat_map
from promptfed.report.charts.svg import Chart

MOST_CLIENTS, MOST_CLASSES = 60, 120
"""Rows and columns that are drawn, at even distances."""
FULL_SIZE = 26
"""Classes up to which a cell has room for its number."""


def partition_chart(table: Mapping[str, Any]) -> Chart:
    """Draw training examples by client and class."""
    names, count = table["classes"], len(table["clients"])
    clients = [table["clients"][k] for k in _even(count, MOST_CLIENTS)]
    classes = _even(len(names), MOST_CLASSES)
    cells = [[client["train"][k] for k in classes] for client in clients]
    examples = table.get("examples", "images")
    totals = [sum(client["train"]) for client in clients]
    held = [sum(value > 0 for value in client["train"]) for client in clients]
    title = f"Training {examples} by client and class"
    if len(clients) < count or len(classes) < len(names):
        title += f" ({len(clients)} of {count:,} clients, {len(classes)} of {len(names):,} classes)"
    description = (
        f"Grid of {len(clients)} clients and {len(classes)} classes. A client holds {_span(held)} classes and "
        f"{_span(totals)} training {examples}: {_listed(clients, held, totals)}"
    )
    cell = CELL if len(classes) <= FULL_SIZE else max(SMALLEST_CELL, min(CELL - 8, 900 / len(classes)))
    return heat_map(
        title,
        description,
        [str(client["name"]) for client in clients],
        [str(names[k]) for k in classes],
        cells,
        row_title=f"clients ({count:,})",
        column_title=f"training classes ({len(names):,})",
        cell=cell,
    )


def _even(count: int, most: int) -> list[int]:
    return list(range(count)) if count <= most else [k * count // most for k in range(most)]


def _span(values: Sequence[int]) -> str:
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _listed(clients: Sequence[Mapping[str, Any]], held: Sequence[int], totals: Sequence[int], most: int = 12) -> str:
    rows = [
        f"{printable(client['name'], 40)} {total:,} of {classes} classes"
        for client, classes, total in zip(clients[:most], held, totals, strict=False)
    ]
    return "; ".join(rows) + ("." if len(clients) <= most else " ...")
