"""Clients in a report: accuracy of each, worst first, with intervals, and how many classes and examples it holds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

from promptfed.intervals import wilson_interval
from promptfed.report.charts.bars import Bar, bar_chart
from promptfed.report.charts.lines import Series, line_chart
from promptfed.report.charts.svg import Chart
from promptfed.report.round_charts import one_decimal
from promptfed.report.stage_looks import Stage
from promptfed.report.tables import interval, percent

MOST_BARS = 40
MOST_ROWS = 500
"""Clients that the table lists."""
ONE_CLASS = "one class"
Scores = Mapping[str, Mapping[int, Mapping[str, Any]]]
"""Stage -> client -> its row of the evaluation."""


def client_scores(events: Sequence[Mapping[str, Any]]) -> dict[str, dict[int, Mapping[str, Any]]]:
    """Return the rows of the last evaluation of each stage."""
    evaluations = {event["stage"]: event for event in events if event["event"] == "evaluation"}
    return {stage: {row["client"]: row for row in event.get("local") or ()} for stage, event in evaluations.items()}


def worst_first(scores: Scores, main: str) -> list[int]:
    """Return all clients, rising by their accuracy in stage ``main``; those without one (one class) come last."""
    clients = dict.fromkeys(client for rows in scores.values() for client in rows)

    def accuracy(client: int) -> float:
        value = scores.get(main, {}).get(client, {}).get("accuracy")
        return math.inf if value is None else float(value)

    return sorted(clients, key=accuracy)


def is_one_class(row: Mapping[str, Any]) -> bool:
    """Return whether a client has nothing to choose between: each of its examples would be right."""
    return row.get("accuracy") is None and row.get("all_classes") is not None


def client_charts(scores: Scores, stages: Mapping[str, Stage], main: str) -> list[Chart]:
    """Return bars of the clients that do worst, and of more than ``MOST_BARS`` a line over all of them."""
    order = worst_first(scores, main)
    if main not in scores or not order:
        return []
    shown = order[:MOST_BARS]
    others = [stage for stage in scores if stage != main]
    bars = []
    for client in shown:
        row = scores[main].get(client, {})
        marks = {
            stages[stage].label: 100 * value
            for stage in others
            if (value := scores[stage].get(client, {}).get("accuracy")) is not None
        }
        bars.append(_bar(row, client, marks))
    title = "Local test accuracy by client, worst first"
    if len(order) > len(shown):
        title = f"Local test accuracy of the {len(shown)} clients with the lowest"
    chart = bar_chart(
        title,
        bars,
        x_title="accuracy on its own classes (%)",
        series=(stages[main].label, stages[main].look),
        marks={stages[stage].label: stages[stage].look for stage in others},
        words=one_decimal,
    )
    charts = [] if chart is None else [chart]
    if len(order) > len(shown) and (line := _all_clients(scores, stages, order, main)) is not None:
        charts.append(line)
    return charts


def _bar(row: Mapping[str, Any], client: int, marks: Mapping[str, float]) -> Bar:
    name, value, items = str(row.get("name") or client), row.get("accuracy"), row.get("items")
    ends = None if value is None or not items else wilson_interval(value, items)
    return Bar(
        name,
        None if value is None else 100 * value,
        None if ends is None else (100 * ends[0], 100 * ends[1]),
        marks,
        ONE_CLASS if is_one_class(row) else "" if not items else f"n {items:,}",
    )


def _all_clients(scores: Scores, stages: Mapping[str, Stage], order: Sequence[int], main: str) -> Chart | None:
    series = []
    for stage, rows in scores.items():
        values = [(place, rows.get(client, {}).get("accuracy")) for place, client in enumerate(order, 1)]
        points = [(float(place), 100 * value) for place, value in values if value is not None]
        series.append(Series(stages[stage].label, points, stages[stage].look))
    return line_chart(
        "All clients, in that order",
        series,
        x_title=f"{len(order):,} clients, rising by {stages[main].label}",
        y_title="accuracy on its own classes (%)",
        y_limits=(0, 100),
        y_words=one_decimal,
    )


def client_table(
    scores: Scores, stages: Mapping[str, Stage], main: str, partition: Mapping[str, Any] | None
) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Return the columns (classes, examples, each stage twice) and some rows (client, cells), worst first."""
    order = worst_first(scores, main)
    held = _held(partition, order[:MOST_ROWS])
    rows = []
    for client in order[:MOST_ROWS]:
        by_stage = {stage: rows_of.get(client, {}) for stage, rows_of in scores.items()}
        row = by_stage.get(main) or next((row for row in by_stage.values() if row), {})
        cells = [*held.get(client, ("-", "-")), str(row.get("items") or "-")]
        for score in by_stage.values():
            own = ONE_CLASS if is_one_class(score) else _with_interval(score.get("accuracy"), score.get("items"))
            cells += [own, _with_interval(score.get("all_classes"), score.get("items"))]
        rows.append((str(row.get("name") or client), cells))
    columns = ["classes", "train", "test"]
    columns += [c for stage in scores for c in (stages[stage].label, f"{stages[stage].label}, all classes")]
    if len(order) > MOST_ROWS:
        rows.append((f"and {len(order) - MOST_ROWS:,} more, in events.jsonl", [""] * len(columns)))
    return columns, rows


def _held(partition: Mapping[str, Any] | None, clients: Sequence[int]) -> dict[int, tuple[str, str]]:
    """Return client -> how many classes and training examples it holds, as text."""
    wanted = set(clients)
    rows = (row for row in (partition or {}).get("clients") or () if row["client"] in wanted)
    return {
        row["client"]: (str(sum(count > 0 for count in row["train"])), f"{sum(row['train']):,}")
        for row in islice(rows, MOST_ROWS)
    }


def _with_interval(accuracy: float | None, items: int | None) -> str:
    """Format as ``"75.0 [50.5, 89.8]"``."""
    if accuracy is None or not items:
        return percent(accuracy)
    return f"{percent(accuracy)} {interval(wilson_interval(accuracy, items))}"
