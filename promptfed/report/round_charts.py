"""Curves of a run by round: loss and accuracy in training, validation, and how far the shared prompt moves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from promptfed.report.charts.lines import Series, line_chart
from promptfed.report.charts.scale import short_number
from promptfed.report.charts.svg import Chart
from promptfed.report.stage_looks import run_stages
from promptfed.runs.ledger import query_curve

Events = Sequence[Mapping[str, Any]]
CURVES = (
    ("loss", "Training loss", "mean loss", False),
    ("val_accuracy", "Validation accuracy", "accuracy (%)", True),
    ("accuracy", "Training accuracy", "accuracy (%)", True),
    ("drift", "Drift of the shared prompt", "change (% of its norm)", True),
)
"""Field of a round event, title of its chart, title of its axis, and whether it is a share."""


def round_charts(events: Events) -> list[Chart]:
    """Return the charts that have a curve. Zero-shot trains nothing, so it is in that of validation alone."""
    trained = [event for event in events if event.get("stage") != "zero_shot"]
    charts = [
        round_chart(events if field == "val_accuracy" else trained, field, title, axis, percent)
        for field, title, axis, percent in CURVES
    ]
    return [chart for chart in charts if chart is not None]


def round_chart(events: Events, field: str, title: str, axis: str, percent: bool = False) -> Chart | None:
    """Draw ``field`` of the round events against the round, a line for each stage; None without values.

    A stage of one single round beside longer ones is a level. Rounds without a value (all clients dropped out: no loss)
    are left out.
    """
    points: dict[str, dict[int, float]] = {}
    recorded = [event for event in events if event["event"] == "round"]
    rounds_of = Counter(event["stage"] for event in recorded)
    for event in recorded:
        if (value := event.get(field)) is not None:
            points.setdefault(event["stage"], {})[event["round"]] = 100 * value if percent else value
    longest = max((len(values) for values in points.values()), default=0)
    stages = run_stages(events)
    series = [
        Series(stages[stage].label, sorted(values.items()), stages[stage].look, rounds_of[stage] == 1 < longest)
        for stage, values in points.items()
    ]
    words = one_decimal if percent else short_number
    return line_chart(title, series, x_title="round", y_title=axis, y_words=words)


def query_chart(events: Events) -> Chart | None:
    """Draw validation accuracy against the queries of training; None without a black box.

    Zero-shot, and any other stage of a single round beside longer ones, is a level.
    """
    stages = run_stages(events)
    points = {stage: curve for stage in stages if (curve := query_curve(events, stage))}
    if max((len(curve) for curve in points.values()), default=0) < 2:
        return None
    series = [
        Series(stages[stage].label, [(x, 100 * y) for x, y in curve], stages[stage].look, len(curve) == 1)
        for stage, curve in points.items()
    ]
    return accuracy_by_queries(series, y_words=one_decimal)


def accuracy_by_queries(series: Sequence[Series], **options: Any) -> Chart | None:
    """Draw validation accuracy against the queries of training; ``options`` are those of ``line_chart``."""
    return line_chart(
        "Accuracy against queries",
        series,
        x_title="queries of training, all clients together",
        y_title="validation accuracy (%)",
        x_start=0,
        **options,
    )


def one_decimal(value: float) -> str:
    """Format ``53.125`` as ``"53.1"``, and a round number without decimals."""
    return f"{value:.0f}" if abs(value - round(value)) < 1e-9 else f"{value:.1f}" if abs(value) >= 1 else f"{value:.2g}"
