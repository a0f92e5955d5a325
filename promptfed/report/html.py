"""``report.html``: one self-contained page about a run, finished or not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from promptfed.report.tables import CAPTION, COLUMNS, percent, result_rows
from promptfed.runs.atomic import write_text
from promptfed.runs.checkpoint import newest_round
from promptfed.runs.directory import RunDirectory
from promptfed.runs.ledger import Cost, cost_of

PARTITION_PIXELS = 72
"""Pixels an inch of the partition plot is shown at when it must not shrink."""


@dataclass(frozen=True)
class Picture:
    """An image as a ``data:`` address, what it shows, and the width in pixels below which it scrolls."""

    address: str
    shows: str
    least_width: int = 0


def write_report(run: RunDirectory) -> Path:
    """Write ``report.html`` anew from what the run directory holds by now; returns its path."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(files("promptfed.report").joinpath("report.html.j2").read_text("utf-8"))
    path = run.path / "report.html"
    write_text(path, template.render(_content(run)))
    return path


def _content(run: RunDirectory) -> dict[str, Any]:
    """Everything the template shows, as text and pictures."""
    from promptfed.report import figures

    events, metrics, config = run.events.read(), run.read_metrics() or {}, run.config
    partition = run.read_json("partition.json")
    looks = figures.looks(events)
    trained = [event for event in events if event.get("stage") != "zero_shot"]  # its loss is not one of training
    curves = [
        ("Training loss", figures.round_curves(trained, "loss", "training loss")),
        ("Validation accuracy", figures.round_curves(events, "val_accuracy", "validation accuracy (%)", percent=True)),
    ]
    bars = figures.client_bars(events)
    stages = {stage: look.label for stage, look in looks.items()}
    return {
        "title": run.path.resolve().name,
        "config": config.model_dump(),
        "finished": bool(metrics),
        "round": newest_round(run.stage_folder(config.method, is_baseline=False)),
        "started": events[0]["time"][:16].replace("T", " ") + " UTC" if events else None,
        "columns": COLUMNS,
        "caption": CAPTION,
        "results": result_rows(metrics),
        "curves": [Picture(figures.data_uri(figure), f"{title} by round") for title, figure in curves if figure],
        "bars": Picture(figures.data_uri(bars), "Local test accuracy of each client under each stage")
        if bars
        else None,
        "clients": _client_table(figures.client_accuracies(events), stages),
        "partition": _partition(partition) if partition and partition.get("clients") else None,
        "costs": _cost_rows(events, stages),
    }


def _partition(table: dict[str, Any]) -> Picture:
    from promptfed.report.figures import data_uri
    from promptfed.tasks.show import plot_partition

    figure = plot_partition(table)
    shows = f"Training images by client and class: {len(table['clients'])} clients, {len(table['classes'])} classes"
    return Picture(data_uri(figure), shows, round(figure.get_figwidth() * PARTITION_PIXELS))


def _client_table(
    found: Mapping[str, Mapping[str, float]], stages: Mapping[str, str]
) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Head (stage labels) and rows (client, percent under each stage): the bars as numbers."""
    clients = dict.fromkeys(client for accuracies in found.values() for client in accuracies)
    rows = [(client, [percent(accuracies.get(client)) for accuracies in found.values()]) for client in clients]
    return [stages[stage] for stage in found], rows


def _cost_rows(events: Sequence[Mapping[str, Any]], stages: Mapping[str, str]) -> list[tuple[str, list[str]]]:
    """Cost of the shared features, of each stage, and of the whole run."""
    costs = [("features (shared)", cost_of(event for event in events if event["event"] == "features"))]
    costs += [(label, cost_of(events, stage)) for stage, label in stages.items()]
    costs.append(("whole run", cost_of(events)))
    return [(label, _cost_cells(cost)) for label, cost in costs]


def _cost_cells(cost: Cost) -> list[str]:
    calls = (f"{cost.image_encoder_calls:,}", f"{cost.text_encoder_calls:,}")
    return [readable_bytes(cost.bytes_up), readable_bytes(cost.bytes_down), f"{cost.seconds:,.1f} s", *calls]


def readable_bytes(count: int) -> str:
    """``1536`` -> ``"1.5 kB"``, in steps of 1000 (kB, MB, ...)."""
    size, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if size < 1000:
            break
        size, unit = size / 1000, larger
    return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
