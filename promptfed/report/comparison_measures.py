"""The table of a comparison that has measures besides accuracy, each in the direction that is better."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from promptfed.printable import printable
from promptfed.report.measure_table import COLUMNS, best_of, shown_figure
from promptfed.report.tables import meanings, without_empty, without_repeated

TITLE = "Other measures"


def measure_section(summary: Mapping[str, Any], methods: Mapping[str, Mapping[str, Any]]) -> dict[str, Any] | None:
    """Return the table, as ``promptfed.report.comparison.sections`` has them; None without measures.

    Args:
        summary: The comparison; ``measures`` has each measure's name, better and unit.
        methods: The finished methods, by name.
    """
    measures: Mapping[str, Mapping[str, str]] = summary.get("measures") or {}
    columns: list[str] = []
    cells: list[list[str]] = [[] for _ in methods]
    marks: list[list[bool]] = [[] for _ in methods]
    parts: dict[str, None] = {}
    for key, measure in measures.items():
        spreads = [_spreads(method, key) for method in methods.values()]
        shown = without_repeated([[_cell(spread, measure["unit"]) for spread in row.values()] for row in spreads])
        names, visible = without_empty(list(COLUMNS), shown)
        means = [[(row[name] or {}).get("mean") for name in names] for row in spreads]
        columns += [f"{name} {printable(measure['name'], 40)}" for name in names]
        for place, (row, best) in enumerate(zip(visible, best_of(means, measure["better"]), strict=True)):
            cells[place] += row
            marks[place] += best
        parts |= dict.fromkeys(names)
    if not columns:
        return None
    rows = [
        (name, method["label"], tuple(row), tuple(best))
        for (name, method), row, best in zip(methods.items(), cells, marks, strict=True)
    ]
    directions = "; ".join(
        f"{printable(measure['name'], 40)}{_unit(measure)}, {measure['better']} is better"
        for measure in measures.values()
    )
    caption = f"{directions}. Mean ± standard deviation over seeds (n - 1). {meanings(summary, list(parts))}"
    return {"title": TITLE, "columns": columns, "rows": rows, "caption": caption, "notes": {}}


def _spreads(method: Mapping[str, Any], measure: str) -> dict[str, Mapping[str, float | None] | None]:
    """Return column -> mean and standard deviation of one method's ``measure``."""
    figures = (method.get("measures") or {}).get(measure) or {}
    return {column: figures.get(key) for column, key in COLUMNS.items()}


def _unit(measure: Mapping[str, str]) -> str:
    return f" in {printable(measure['unit'], 20)}" if measure["unit"] else ""


def _cell(spread: Mapping[str, float | None] | None, unit: str) -> str:
    return "-" if spread is None else shown_figure(spread["mean"], spread["std"], unit)
