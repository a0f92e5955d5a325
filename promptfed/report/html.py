"""``report.html``: one self-contained page about a run, finished or not."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from promptfed.blackbox.oracles.ledger import FILE as ORACLE_LEDGER
from promptfed.blackbox.oracles.ledger import LOST, OracleLedger
from promptfed.blackbox.oracles.spent import RECOVERED
from promptfed.files.atomic import remove_drafts, write_text
from promptfed.intervals import wilson_interval
from promptfed.named_model import named_model
from promptfed.printable import printable, printable_lines
from promptfed.privacy.statement import FILE as STATEMENT
from promptfed.readers.content import expected_content
from promptfed.report.measure_table import measure_caption, measure_rows
from promptfed.report.oracle_usage import CAPTION as ORACLE_CAPTION
from promptfed.report.oracle_usage import UsageTable, client_table, usage_table
from promptfed.report.privacy_rows import statement_rows
from promptfed.report.tables import (
    DOMAINS_CAPTION,
    caption,
    domain_rows,
    interval,
    notes_below,
    percent,
    result_rows,
    update_words,
)
from promptfed.runs.checkpoint import newest_round
from promptfed.runs.directory import RunDirectory
from promptfed.runs.journal import environment_of
from promptfed.runs.ledger import Cost, cost_of
from promptfed.runs.partition_file import read_partition
from promptfed.runs.passport import check_passport
from promptfed.runs.personalized import CURVE
from promptfed.usage import Work

if TYPE_CHECKING:
    from jinja2 import Environment

log = logging.getLogger(__name__)
MOST_ROWS = 500
"""Clients that the table lists."""
PARTITION_PIXELS = 72
"""Display DPI of the partition plot when it must not be scaled down."""


@dataclass(frozen=True)
class Picture:
    """An image as a ``data:`` address, what it shows, and the width in pixels below which it scrolls."""

    address: str
    shows: str
    least_width: int = 0


REPORT_FILE = "report.html"


def write_report(run: RunDirectory) -> Path:
    """Write ``report.html`` anew from the current content of the run directory; return its path."""
    path = run.path / REPORT_FILE
    with expected_content(f"the files of run '{printable(run.path)}'"):
        page = render("report.html.j2", _content(run))
    remove_drafts(path.parent)
    write_text(path, page)
    return path


def render(template: str, content: Mapping[str, Any]) -> str:
    """Render ``template``, a file of this folder, with ``content``; text in it is escaped."""
    return _environment().get_template(template).render(content)


@cache
def _environment() -> Environment:
    """Make the environment once in a process: it keeps the templates that it has compiled."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("promptfed", "report")
    return Environment(
        loader=loader,
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_plain,
    )


def _plain(value: Any) -> Any:
    """Strip control characters from text; jinja escapes it afterwards."""
    return printable_lines(value) if isinstance(value, str) and not hasattr(value, "__html__") else value


def _content(run: RunDirectory) -> dict[str, Any]:
    """Return everything the template shows, as text and pictures."""
    from promptfed.report import figures

    notes = check_passport(run)
    for note in notes:
        log.warning(note)
    events, metrics, config = run.events.read(), run.read_metrics() or {}, run.config
    partition = read_partition(run)
    looks = figures.looks(events)
    training = [event for event in events if event.get("stage") != "zero_shot"]  # its loss is not one of training
    curves = [
        ("Training loss", figures.round_curves(training, "loss", "training loss")),
        ("Validation accuracy", figures.round_curves(events, "val_accuracy", "validation accuracy (%)", percent=True)),
    ]
    queries = figures.query_curves(events)
    bars = figures.client_bars(events)
    stages = {stage: look.label for stage, look in looks.items()}
    results, measures = result_rows(metrics), measure_rows(metrics)
    examples = (partition or {}).get("examples", "images")
    model = named_model(config)
    return {
        "title": run.path.resolve().name,
        "model": model.label,
        "config": config.model_dump(),
        "file_notes": notes,
        "environment": environment_of(events),
        "finished": bool(metrics),
        "round": newest_round(run.stage_folder(config.method, is_baseline=False)),
        "started": events[0]["time"][:16].replace("T", " ") + " UTC" if events else None,
        "results": results,
        "caption": caption(metrics, *results),
        "notes": notes_below(metrics),
        "data_notes": [f"note: {note}" for note in metrics.get("data_notes") or ()],
        "domains": domain_rows(metrics),
        "measures": measures,
        "measures_caption": measure_caption(metrics, measures[0]),
        "domains_caption": DOMAINS_CAPTION,
        "curves": [Picture(figures.data_uri(figure), f"{title} by round") for title, figure in curves if figure],
        "bars": Picture(figures.data_uri(bars), "Local test accuracy of each client under each stage")
        if bars
        else None,
        "personalized": _personalized(run.read_json(CURVE)),
        "clients": _client_table(events, stages),
        "partition": _partition(partition) if partition and partition.get("clients") else None,
        "examples": examples,
        "lost": _lost_rows(events, stages),
        "costs": _cost_rows(events, stages, model.work),
        "work": model.work,
        "update": update_words(metrics),
        "privacy": statement_rows(run.read_json(STATEMENT)),
        "asked": Picture(figures.data_uri(queries), "Validation accuracy by queries") if queries else None,
        "oracle": _oracle_tables(run, stages, partition),
        "oracle_caption": ORACLE_CAPTION,
    }


def _oracle_tables(
    run: RunDirectory, stages: Mapping[str, str], partition: Mapping[str, Any] | None
) -> tuple[UsageTable, UsageTable | None] | None:
    """Return the ledger's tables by stage and, for the method, by client; None without a black box."""
    if not (run.path / ORACLE_LEDGER).exists():
        return None
    ledger = OracleLedger(run.path / ORACLE_LEDGER)
    try:
        rows = ledger.rows()
    finally:
        ledger.close()
    other_stages = {"personalize": "personalize", LOST: "lost when it was killed", RECOVERED: "the ledger had lost it"}
    by_stage = usage_table(rows, {**stages, **other_stages})
    names = {row["client"]: row["name"] for row in (partition or {}).get("clients", ())}
    return None if by_stage is None else (by_stage, client_table(rows, run.config.method, names))


def _partition(table: dict[str, Any]) -> Picture:
    from promptfed.report.figures import data_uri
    from promptfed.report.partition_plot import plot_partition

    figure = plot_partition(table)
    caption = f"Training {table.get('examples', 'images')} by client and class"
    shows = f"{caption}: {len(table['clients'])} clients, {len(table['classes'])} classes"
    return Picture(data_uri(figure), shows, round(figure.get_figwidth() * PARTITION_PIXELS))


def _personalized(curve: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return the curve of `promptfed personalize`: picture, rows, caption, and each client's alpha."""
    if curve is None:
        return None
    from promptfed.report import interpolation
    from promptfed.report.figures import data_uri

    shows = "Local, base and new test accuracy against alpha"
    columns, rows = interpolation.curve_cells(curve)
    return {
        "picture": Picture(data_uri(interpolation.curve_figure(curve)), shows),
        "columns": columns,
        "rows": rows,
        "caption": interpolation.caption(curve),
        "clients": interpolation.chosen_cells(curve),
    }


def _client_table(
    events: Sequence[Mapping[str, Any]], stages: Mapping[str, str]
) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Return the head (test items, local and all classes of each stage) and some rows (client, cells)."""
    evaluations = {event["stage"]: event for event in events if event["event"] == "evaluation"}
    scores = {stage: {row["client"]: row for row in event.get("local") or ()} for stage, event in evaluations.items()}
    rows = []
    by_client = {client: row for rows_of in scores.values() for client, row in rows_of.items()}
    for client, row in islice(by_client.items(), MOST_ROWS):
        cells = [str(row.get("items", "-"))]
        for of_client in scores.values():
            score = of_client.get(client, {})
            is_one = score.get("accuracy") is None and score.get("all_classes") is not None
            own_classes = "one class" if is_one else _with_interval(score.get("accuracy"), score.get("items"))
            cells += [own_classes, _with_interval(score.get("all_classes"), score.get("items"))]
        rows.append((str(row.get("name") or client), cells))
    head = [column for stage in scores for column in (stages[stage], f"{stages[stage]}, all classes")]
    if len(by_client) > MOST_ROWS:
        rows.append((f"and {len(by_client) - MOST_ROWS:,} more, in events.jsonl", [""] * (1 + len(head))))
    return ["test items", *head], rows


def _with_interval(accuracy: float | None, items: int | None) -> str:
    """Format as ``"75.0 [50.5, 89.8]"``."""
    if accuracy is None or not items:
        return percent(accuracy)
    return f"{percent(accuracy)} {interval(wilson_interval(accuracy, items))}"


def _lost_rows(events: Sequence[Mapping[str, Any]], stages: Mapping[str, str]) -> list[tuple[str, list[str]]]:
    """Return a row for each stage that lost updates: how many of how many, and why."""
    rows = []
    for stage, label in stages.items():
        failures = [e.get("failure") or "" for e in events if e["event"] == "client" and e["stage"] == stage]
        reasons = Counter(failure.partition(":")[0] for failure in failures if failure)
        reasons.update(e["kind"] for e in events if is_late_refusal(e) and e["stage"] == stage)
        if reasons:
            why = ", ".join(f"{reason} {count}" for reason, count in sorted(reasons.items()))
            rows.append((label, [f"{reasons.total()} of {len(failures)}", why]))
    return rows


def is_late_refusal(event: Mapping[str, Any]) -> bool:
    """Return whether ``event`` is an update refused at the merge; its ``client`` event shows no failure."""
    return bool(event["event"] == "incident" and event["kind"] == "refused")


def _cost_rows(
    events: Sequence[Mapping[str, Any]], stages: Mapping[str, str], work: Work | None
) -> list[tuple[str, list[str]]]:
    """Return the cost of what all stages share (if anything), of each stage, and of the whole run."""
    costs = []
    if work is not None and work.once:
        costs.append((work.once, cost_of(event for event in events if event["event"] == "features")))
    costs += [(label, cost_of(events, stage)) for stage, label in stages.items()]
    costs.append(("whole run", cost_of(events)))
    return [(label, _cost_cells(cost, work)) for label, cost in costs]


def _cost_cells(cost: Cost, work: Work | None) -> list[str]:
    cells = [readable_bytes(cost.bytes_up), readable_bytes(cost.bytes_down), f"{cost.seconds:,.1f} s"]
    return cells if work is None else [*cells, *work.cells(cost)]


def readable_bytes(count: int) -> str:
    """Format ``1536`` as ``"1.5 kB"``, in steps of 1000 (kB, MB, ...)."""
    size, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if size < 1000:
            break
        size, unit = size / 1000, larger
    return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
