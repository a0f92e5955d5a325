"""The results of a comparison, or of one run, as a table to export."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from promptfed.report.comparison import FIGURES, finished, interval_of, meaning_of
from promptfed.report.comparison_differences import is_clear
from promptfed.report.export_table import ExportTable, Figure
from promptfed.report.tables import COLUMNS, KEYS, meanings, shown_stages

EXTRA = ("bytes", "seconds", "image_encoder_calls", "text_encoder_calls", "oracle_queries", "usd")
"""Costs of a method that CSV has too."""


def comparison_table(summary: Mapping[str, Any]) -> ExportTable:
    """Return the methods of a comparison with a finished run: means over seeds and their 95 % intervals."""
    methods = finished(summary)
    keys = _kept([key for key, _ in FIGURES], list(methods.values()), lambda m, key: (m.get(key) or {}).get("mean"))
    columns = [column for key, column in FIGURES if key in keys]
    tests = summary.get("tests") or {}
    against: Mapping[str, Any] = tests.get("against") or {}
    reference = next(iter(against), "")
    found = against.get(reference, {})
    best = {key: max((_mean(m, key) for m in methods.values() if m.get(key)), default=None) for key in keys}
    rows = []
    for name, method in methods.items():
        cells = [
            Figure(
                _mean(method, key),
                method[key]["std"],
                interval_of(method, key),
                _same(_mean(method, key), best[key]),
                is_clear(found.get(name, {}).get(key)),
            )
            if method.get(key)
            else Figure(None)
            for key in keys
        ]
        others = {
            "seeds": len(method["runs"]),
            **{name: method[name] for name in EXTRA if method.get(name) is not None},
        }
        rows.append((name, str(method["label"]), cells, others))
    seeds = len(summary["seeds"])
    lead = f"Test accuracy in % on {summary['data']}, "
    lead += f"mean over {seeds} seeds ± its 95 % interval (t). " if seeds > 1 else "one seed, with 95 % intervals. "
    mark = ""
    if any(cell.is_clear for _, _, cells, _ in rows for cell in cells):
        label = methods[reference]["label"]
        mark = f" *: differs from {label} ({tests['test']}, p < 0.05 after {tests['correction']}'s correction)."
    return ExportTable(columns, rows, f"{lead}Bold: highest. {meaning_of(summary, columns)}{mark}", "comparison")


def run_table(metrics: Mapping[str, Any]) -> ExportTable:
    """Return zero-shot, local-only and the method of one run, with their 95 % intervals."""
    stages = shown_stages(metrics)
    kept = _kept(COLUMNS, [figures for _, _, figures in stages], lambda figures, column: figures.get(KEYS[column]))
    best = {
        column: max((f[KEYS[column]] for _, _, f in stages if f.get(KEYS[column]) is not None), default=None)
        for column in kept
    }
    rows = []
    for key, label, figures in stages:
        cells = [
            Figure(
                value := figures.get(KEYS[column]),
                figures.get(f"{KEYS[column]}_std"),
                (figures.get("intervals") or {}).get(KEYS[column]),
                _same(value, best[column]),
            )
            for column in kept
        ]
        cost = metrics.get("cost") or {}
        rows.append((key, str(figures.get("name") or label), cells, cost if key == "method" else {}))
    caption = f"Test accuracy in %, one run, with 95 % intervals. Bold: highest. {meanings(metrics, kept)}"
    return ExportTable(kept, rows, caption, "results")


def _mean(method: Mapping[str, Any], key: str) -> float:
    return float(method[key]["mean"])


def _same(value: float | None, best: float | None) -> bool:
    """Return whether two figures are the same as they are printed."""
    return value is not None and best is not None and round(100 * value, 1) == round(100 * best, 1)


def _kept(names: Sequence[str], rows: Sequence[Any], value: Any) -> list[str]:
    """Return the names with a figure in some row; the second one only if it does not repeat the first."""
    kept = [name for name in names if any(value(row, name) is not None for row in rows)]
    first, second = names[:2]
    repeats = all(value(row, first) == value(row, second) for row in rows)
    return [name for name in kept if not (repeats and name == second)]
