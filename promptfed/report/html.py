"""``report.html``: one self-contained page about a run, finished or not."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from promptfed.blackbox.oracles.ledger import FILE as ORACLE_LEDGER
from promptfed.blackbox.oracles.ledger import LOST, OracleLedger
from promptfed.blackbox.oracles.spent import RECOVERED
from promptfed.files.atomic import remove_drafts, write_text
from promptfed.named_model import named_model
from promptfed.printable import printable, printable_lines
from promptfed.privacy.statement import FILE as STATEMENT
from promptfed.readers.content import expected_content
from promptfed.report import interpolation
from promptfed.report.charts.svg import Chart
from promptfed.report.class_section import (
    Confusion,
    class_chart,
    class_table,
    confusion_chart,
    frequent_errors,
    precision_chart,
    precision_table,
)
from promptfed.report.client_section import client_charts, client_scores, client_table
from promptfed.report.glance import tiles, verdict, warnings
from promptfed.report.measure_table import measure_caption, measure_rows
from promptfed.report.option_rows import option_rows
from promptfed.report.oracle_usage import CAPTION as ORACLE_CAPTION
from promptfed.report.oracle_usage import UsageTable, usage_table
from promptfed.report.oracle_usage import client_table as asked_by_client
from promptfed.report.partition_chart import partition_chart
from promptfed.report.privacy_rows import statement_rows
from promptfed.report.prompt_section import shown_samples, shown_words
from promptfed.report.round_charts import query_chart, round_charts
from promptfed.report.stage_looks import Stage, run_stages
from promptfed.report.tables import (
    DOMAINS_CAPTION,
    caption,
    domain_rows,
    result_rows,
    update_words,
)
from promptfed.result_notes import new_classes_line
from promptfed.runs.checkpoint import newest_round
from promptfed.runs.directory import DETAILS, RunDirectory
from promptfed.runs.journal import environment_of
from promptfed.runs.ledger import Cost, cost_of
from promptfed.runs.partition_file import read_partition
from promptfed.runs.passport import check_passport
from promptfed.runs.personalized import CURVE
from promptfed.usage import Work

if TYPE_CHECKING:
    from jinja2 import Environment

log = logging.getLogger(__name__)


REPORT_FILE = "report.html"


def write_report(run: RunDirectory, *, with_samples: bool = True) -> Path:
    """Write ``report.html`` anew from the current content of the run directory; return its path.

    ``with_samples``: show the test examples that the run has kept.
    """
    path = run.path / REPORT_FILE
    with expected_content(f"the files of run '{printable(run.path)}'"):
        page = render("report.html.j2", _content(run, with_samples))
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


def _content(run: RunDirectory, with_samples: bool) -> dict[str, Any]:
    """Return everything the template shows, as text and charts."""
    notes = check_passport(run)
    for note in notes:
        log.warning(note)
    events, metrics, config = run.events.read(), run.read_metrics() or {}, run.config
    partition, details = read_partition(run), run.read_json(DETAILS)
    stages = run_stages(events)
    labels = {stage: look.label for stage, look in stages.items()}
    results, measures, scores = result_rows(metrics), measure_rows(metrics), client_scores(events)
    names = [str(name) for name in (partition or {}).get("classes") or ()]
    confusion, model = Confusion.of(details, names), named_model(config)
    main = stages.get(config.method)
    differing, every = option_rows(config)
    content = {
        "title": run.path.resolve().name,
        "config": config,
        "model": model.label,
        "file_notes": notes,
        "finished": bool(metrics),
        "round": newest_round(run.stage_folder(config.method, is_baseline=False)),
        "started": events[0]["time"][:16].replace("T", " ") + " UTC" if events else None,
        "clients": len((partition or {}).get("clients") or ()),
        "examples": (partition or {}).get("examples", "images"),
        "verdict": verdict(metrics),
        "tiles": tiles(metrics),
        "warnings": warnings(metrics, events, labels),
        "results": results,
        "caption": caption(metrics, *results),
        "held_out": new_classes_line(metrics.get("new_classes") or ()),
        "domains": domain_rows(metrics),
        "domains_caption": DOMAINS_CAPTION,
        "measures": measures,
        "measures_caption": measure_caption(metrics, measures[0]),
        "curves": round_charts(events),
        "queries": query_chart(events),
        "lost": _lost_rows(events, labels),
        "client_charts": client_charts(scores, stages, config.method),
        "client_table": client_table(scores, stages, config.method, partition),
        "class_chart": _class_chart(confusion, details, names, main),
        "class_table": class_table(confusion) if confusion else precision_table(details, names),
        "confusion": confusion_chart(confusion) if confusion else None,
        "errors": frequent_errors(confusion) if confusion else [],
        "has_details": details is not None,
        "samples": shown_samples(details, names) if with_samples else [],
        "words": shown_words(details),
        "personalized": _personalized(run.read_json(CURVE)),
        "partition": partition_chart(partition) if partition and partition.get("clients") else None,
        "data_notes": metrics.get("data_notes") or (),
        "costs": _cost_rows(events, labels, model.work),
        "work": model.work,
        "update": update_words(metrics),
        "oracle": _oracle_tables(run, labels, partition),
        "oracle_caption": ORACLE_CAPTION,
        "privacy": statement_rows(run.read_json(STATEMENT)),
        "environment": _environment_rows(events, partition),
        "command": environment_of(events).get("command") or "",
        "differing": differing,
        "options": every,
    }
    return {**content, "sections": _sections(content)}


def _class_chart(
    confusion: Confusion | None, details: Mapping[str, Any] | None, names: Sequence[str], main: Stage | None
) -> Chart | None:
    """Return the chart of accuracy by class, or of average precision where examples have several classes."""
    if main is None:
        return None
    if confusion is None:
        return precision_chart(details, names, main.label, main.look)
    return class_chart(confusion, main.label, main.look)


def _sections(content: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return (id, heading) of the sections that the page has."""
    present = {
        "results": ("Results", True),
        "rounds": ("Rounds", True),
        "oracle": ("The oracle", content["oracle"]),
        "clients": ("Clients", content["client_charts"]),
        "classes": ("Classes", content["class_table"]),
        "samples": ("Samples", content["samples"]),
        "prompt": ("The prompt", content["words"]),
        "personalisation": ("Personalisation", content["personalized"]),
        "partition": ("Who holds what", content["partition"]),
        "cost": ("Cost", True),
        "privacy": ("Privacy", content["privacy"]),
        "options": ("Options", True),
        "environment": ("Environment", True),
    }
    return [(name, heading) for name, (heading, is_there) in present.items() if is_there]


def _environment_rows(events: Sequence[dict[str, Any]], partition: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    """Return versions and machine, and the fingerprints of the model and the data."""
    found = dict(environment_of(list(events)))
    found.pop("command", None)
    rows = [(name, str(value) if value not in ("", None) else "-") for name, value in found.items()]
    for kind in ("backbone", "oracle"):
        about = (partition or {}).get(kind)
        if isinstance(about, Mapping) and about.get("fingerprint"):
            rows.append((f"{kind} fingerprint", f"{about.get('name', '')}, SHA-256 {about['fingerprint']}"))
    content = (partition or {}).get("content")
    if isinstance(content, Mapping) and content.get("tests"):
        rows.append(("fingerprint of the test data", f"SHA-256 {content['tests']}"))
    return rows


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
    return None if by_stage is None else (by_stage, asked_by_client(rows, run.config.method, names))


def _personalized(curve: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return the curve of `promptfed personalize`: chart, rows, caption, and each client's alpha."""
    if curve is None:
        return None
    columns, rows = interpolation.curve_cells(curve)
    return {
        "chart": interpolation.curve_chart(curve),
        "columns": columns,
        "rows": rows,
        "caption": interpolation.caption(curve),
        "clients": [(name, cells) for name, cells in interpolation.chosen_cells(curve)],
    }


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
