"""The page of `promptfed watch`, and the part of it that changes: made on this side, of the reports' own pieces."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from promptfed.counts import readable_age
from promptfed.report.charts.lines import Series, line_chart
from promptfed.report.charts.look import BASELINES, method_look
from promptfed.report.charts.scale import short_number
from promptfed.report.charts.svg import Chart
from promptfed.report.html import readable_bytes, render
from promptfed.report.round_charts import one_decimal
from promptfed.report.tables import percent
from promptfed.watching.followed_run import FollowedRun, StageState, State

MOST_CHARTED, MOST_LISTED, MOST_ROWS = 8, 100, 60
GOOD: Mapping[State, str] = {"running": "run", "finished": "good", "stopped": "open", "damaged": "open", "waiting": ""}
CURVES = (
    ("val_accuracy", "Validation accuracy", "accuracy (%)", True),
    ("loss", "Training loss", "mean loss", False),
)


@dataclass(frozen=True)
class Row:
    """A line of the list of runs, as text; ``share``: how much is done, in 0..1."""

    id: str
    name: str
    method: str
    state: State
    words: str
    share: float
    rounds: str
    cells: tuple[str, ...]


def whole_page(title: str, address: str, nonce: str) -> str:
    """Return the page around what changes; its script gets that from ``address`` again and again."""
    return render("watch.html.j2", {"title": title, "address": address, "nonce": nonce})


def live_part(runs: Sequence[FollowedRun], chosen: str = "", now: float | None = None) -> str:
    """Return what changes: the list of runs, curves of the newest ones side by side, and each of them in detail.

    Args:
        runs: All runs, the newest first.
        chosen: The id of one run to show alone; "" for all.
        now: Seconds since 1970; None: the time of this machine.
    """
    now = time.time() if now is None else now
    rows = [_row(run, now) for run in runs]
    counts = {state: sum(row.state == state for row in rows) for state in GOOD}
    shown = [run for run, row in zip(runs, rows, strict=True) if chosen in ("", row.id)]
    if not chosen:  # those under way first, each kind newest first
        order = {id(run): row.state != "running" for run, row in zip(runs, rows, strict=True)}
        shown = sorted(shown, key=lambda run: order[id(run)])[:MOST_CHARTED]
    by_id = {run_id(run): row for run, row in zip(runs, rows, strict=True)}
    return render(
        "watch_live.html.j2",
        {
            "summary": ", ".join(f"{count} {state}" for state, count in counts.items() if count) or "no run yet",
            "rows": rows[:MOST_LISTED],
            "more": max(0, len(rows) - MOST_LISTED),
            "badges": GOOD,
            "charts": charts(shown),
            "left_out": 0 if chosen else len(runs) - len(shown),
            "chosen": chosen,
            "runs": [_details(run, by_id[run_id(run)]) for run in shown],
        },
    )


def run_id(run: FollowedRun) -> str:
    """Return the word that names a run in addresses of the page."""
    from hashlib import sha256

    return sha256(str(run.path.absolute()).encode("utf-8", "surrogateescape")).hexdigest()[:10]


def charts(runs: Sequence[FollowedRun]) -> list[Chart]:
    """Return curves: of one run a line for each stage, of several runs a line for each run's own method."""
    made = []
    for field, title, axis, is_share in CURVES:
        series = []
        for number, run in enumerate(runs):
            stages = run.stages if len(runs) == 1 else {run.method: run.main}
            longest = max((len(stage.rounds) for stage in stages.values()), default=0)
            for name, stage in stages.items():
                if field == "loss" and name == "zero_shot":
                    continue
                look = (BASELINES.get(name) if len(runs) == 1 else None) or method_look(number)
                points = _points(stage, field, is_share)
                label = name if len(runs) == 1 else run.name
                series.append(Series(label, points, look, is_level=len(stage.rounds) == 1 < longest))
        words = one_decimal if is_share else short_number
        chart = line_chart(title, series, x_title="round", y_title=axis, y_words=words)
        made += [] if chart is None else [chart]
    return made


def _points(stage: StageState, field: str, is_share: bool) -> list[tuple[float, float]]:
    values = {row["round"]: row[field] for row in stage.rounds if row[field] is not None}
    return [(float(number), 100 * value if is_share else value) for number, value in sorted(values.items())]


def _row(run: FollowedRun, now: float) -> Row:
    state, words = run.state(now)
    stage = run.stages.get(run.current) or StageState()
    last = stage.rounds[-1] if stage.rounds else {}
    done = int(last.get("round") or 0)
    cost = run.cost()
    test = run.main.test or {}
    if state == "running" and run.updated:
        words = f"{run.current or 'starting'}, last sign {readable_age(now - run.updated)} ago"
    cells = (
        percent(last.get("val_accuracy")),
        "-" if last.get("loss") is None else f"{last['loss']:.3f}",
        percent(test.get("base")),
        percent(test.get("hm")),
        readable_bytes(cost.bytes_up + cost.bytes_down),
        readable_age(cost.seconds),
        readable_age(now - run.updated) if run.updated else "-",
    )
    share = 1.0 if state == "finished" else done / run.planned if run.planned else 0.0
    is_short = state == "finished" and done < run.planned  # zero-shot has one round, whatever is planned
    rounds = str(done) if is_short or not run.planned else f"{done}/{run.planned}"
    return Row(run_id(run), run.name, run.method or "-", state, words, min(1.0, share), rounds, cells)


def _details(run: FollowedRun, row: Row) -> dict[str, Any]:
    """Return one run as text: facts, stages with their cost, clients of the stage that is under way, messages."""
    stage = run.stages.get(run.current) or StageState()
    named = {
        key: str(run.config[key]) for key in ("data", "backbone", "task", "seed") if run.config.get(key) is not None
    }
    return {
        "row": row,
        "facts": list(named.items()),
        "stages": [(name, _stage_cells(each)) for name, each in run.stages.items()],
        "stage": run.current,
        "since": stage.since,
        "clients": [(f"client {number}", _client_cells(each)) for number, each in _ordered(stage)[:MOST_ROWS]],
        "clients_left_out": max(0, len(stage.clients) - MOST_ROWS),
        "messages": [(time[11:19], text) for time, text in reversed(run.messages)],
        "calls": _calls(run),
    }


def _ordered(stage: StageState) -> list[tuple[int, Any]]:
    """Return the clients, those whose last update was lost first."""
    return sorted(stage.clients.items(), key=lambda item: (not item[1].failure, item[0]))


def _stage_cells(stage: StageState) -> list[str]:
    last, test = (stage.rounds[-1] if stage.rounds else {}), stage.test or {}
    return [
        str(last.get("round") or "-"),
        percent(last.get("val_accuracy")),
        *(percent(test.get(name)) for name in ("local_mean", "base", "new", "hm")),
        readable_bytes(stage.cost.bytes_up),
        readable_bytes(stage.cost.bytes_down),
        f"{stage.cost.seconds:,.1f} s",
    ]


def _client_cells(client: Any) -> list[str]:
    return [
        str(client.round),
        client.failure.partition(":")[0] or "in time",
        "-" if client.loss is None else f"{client.loss:.3f}",
        percent(client.accuracy),
        f"{client.lost} of {client.rounds}",
        readable_bytes(client.cost.bytes_up),
        readable_bytes(client.cost.bytes_down),
        f"{client.cost.seconds:,.1f} s",
    ]


def _calls(run: FollowedRun) -> str:
    """Return the calls of the frozen model so far, in words."""
    cost = run.cost()
    names = {
        "images encoded": cost.image_encoder_calls, "texts encoded": cost.text_encoder_calls,
        "queries": cost.oracle_queries, "calls of the black box": cost.oracle_calls,
    }  # fmt: skip
    words = [f"{count:,} {name}" for name, count in names.items() if count]
    return ", ".join(words + ([f"{cost.usd:.4f} USD"] if cost.usd else []))
