"""A run in a notebook: the table of results, and the curves."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from promptfed.printable import printable
from promptfed.report.measure_table import measure_rows
from promptfed.report.round_charts import round_charts
from promptfed.report.tables import result_rows
from promptfed.runs.directory import RunDirectory


def run_html(run: RunDirectory, title: str) -> str:
    """Return HTML with the current results of ``run`` and its curves below ``title``."""
    parts = [f"<p><strong>{escape(printable(title, 1000))}</strong></p>"]
    if metrics := run.read_metrics():
        columns, rows = result_rows(metrics)
        head = "".join(f"<th scope='col'>{escape(name)}</th>" for name in ("", *columns))
        body = "".join(
            f"<tr><th scope='row'>{escape(printable(row.label))}</th>"
            + "".join(f"<td>{escape(cell)}</td>" for cell in row.cells)
            + f"<td>{escape(row.flag)}</td></tr>"
            for row in rows
        )
        parts.append(f"<table><thead><tr>{head}<th></th></tr></thead><tbody>{body}</tbody></table>")
        parts += _measures(metrics)
    events = run.events.read()
    for chart in round_charts(events)[:2]:
        text = escape(f"{chart.title}. {chart.description}")
        parts.append(f"<img alt='{text}' style='max-width: 48%' src='{chart.data_uri()}'>")
    return "\n".join(parts)


def _measures(metrics: Mapping[str, Any]) -> list[str]:
    """Return the table of measures besides accuracy, if there are any."""
    columns, rows = measure_rows(metrics)
    if not rows:
        return []
    head = "".join(f"<th scope='col'>{escape(name)}</th>" for name in ("measure", "", *columns))
    body = "".join(
        "<tr>"
        + "".join(f"<th scope='row'>{escape(printable(text))}</th>" for text in (row.note, row.label))
        + "".join(f"<td>{escape(cell)}</td>" for cell in row.cells)
        + "</tr>"
        for row in rows
    )
    return [f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"]
