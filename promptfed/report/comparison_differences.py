"""What a comparison says about differences: a table against each reference, a verdict, and what to be wary of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from promptfed.paired_tests import LEVEL
from promptfed.report.comparison import FIGURES, finished, interval_of, left_out
from promptfed.report.tables import ResultRow, percent, without_empty

Summary = Mapping[str, Any]
FEW_SEEDS = 3
RANKED = (("hm", "HM"), ("base", "base"))
"""The figure that ranks the methods: the first of these that all have."""
MINUS = "\u2212"


@dataclass(frozen=True)
class DifferenceTable:
    """Differences of each method from ``reference``, in percentage points, with p below."""

    reference: str
    columns: list[str]
    rows: list[ResultRow]
    caption: str


def difference_tables(summary: Summary) -> list[DifferenceTable]:
    """Return a table for each reference."""
    tests, methods = summary.get("tests") or {}, finished(summary)
    tables = []
    for reference, found in (tests.get("against") or {}).items():
        names = [name for name in methods if name in found]
        keys = [key for key, _ in FIGURES]
        cells = [[_difference(found[name].get(key)) for key in keys] for name in names]
        columns, shown = without_empty([column for _, column in FIGURES], cells)
        kept = [key for key, column in FIGURES if column in columns]
        rows = [
            ResultRow(
                name,
                methods[name]["label"],
                row,
                tuple(is_clear(found[name].get(key)) for key in kept),
                tuple(_p_words(found[name].get(key)) for key in kept),
            )
            for name, row in zip(names, shown, strict=True)
        ]
        tables.append(DifferenceTable(reference, columns, rows, _caption(tests, reference)))
    return tables


def is_clear(entry: Mapping[str, Any] | None) -> bool:
    """Return whether a difference is one after the correction."""
    return entry is not None and entry["p_holm"] is not None and entry["p_holm"] < LEVEL


def why_no_test(summary: Summary) -> str:
    """Return why there is no test; empty if there are some."""
    return str((summary.get("tests") or {}).get("note") or "")


def verdict(summary: Summary) -> str:
    """Return who is ahead and how sure that is, in a sentence or two; empty without a finished method."""
    methods = finished(summary)
    if not methods:
        return ""
    key, column = next(((k, c) for k, c in RANKED if all(m[k] for m in methods.values())), RANKED[1])
    means = {name: method[key]["mean"] for name, method in methods.items() if method[key]}
    if not means:
        return ""
    best = max(means, key=lambda name: means[name])
    ends = interval_of(methods[best], key)
    interval = f" (95 % interval {percent(ends[0])} to {percent(ends[1])})" if ends else ""
    sentence = f"{best} has the highest {column}, {percent(means[best])} %{interval}."
    against = (summary.get("tests") or {}).get("against") or {}
    for reference, found in against.items():
        if reference != best and reference in means:
            sentence += f" {_beside(found.get(best, {}).get(key), means[best] - means[reference], reference)}"
    return sentence


def comparison_warnings(summary: Summary) -> list[str]:
    """Return what a reader must know before trusting the figures, a sentence each."""
    methods = finished(summary)
    below = [f"{name} ({', '.join(b)})" for name, m in methods.items() if (b := m.get("below_zero_shot"))]
    lines = [f"Below zero-shot, where the model does better without what was trained: {'; '.join(below)}."] * bool(
        below
    )
    lines += [f"Left out: {line}." for line in left_out(summary)]
    seeds = len(summary["seeds"])
    if methods and seeds == 1:
        lines.append(
            "There is one seed: its intervals are over test examples and clients, and say nothing about another draw "
            "of the training examples or another start. --seeds 3 or more does."
        )
    elif methods and seeds <= FEW_SEEDS:
        lines.append(
            f"There are {seeds} seeds: a 95 % interval over so few is wide, and a test finds large differences only."
        )
    lines += [f"{note[:1].upper()}{note[1:]}".rstrip(".") + "." for note in summary.get("notes") or ()]
    return lines


def _beside(entry: Mapping[str, Any] | None, difference: float, reference: str) -> str:
    words = f"It is {abs(100 * difference):.1f} points {'above' if difference >= 0 else 'below'} {reference}"
    if entry is None or entry["p_holm"] is None:
        return f"{words}; no test can be made."
    doubt = "a clear difference" if is_clear(entry) else "which may be chance"
    return f"{words}, {doubt} (p {_p(entry['p_holm'])} after Holm's correction)."


def _difference(entry: Mapping[str, Any] | None) -> str:
    return "-" if entry is None else _signed(entry["difference"])


def _signed(value: float) -> str:
    points = round(100 * value, 1) + 0.0
    return f"+{points:.1f}" if points > 0 else f"{MINUS}{-points:.1f}" if points < 0 else "0.0"


def _p_words(entry: Mapping[str, Any] | None) -> str:
    """Format as ``"[-1.0, +3.2] p 0.21"``."""
    if entry is None:
        return ""
    ends = entry["interval"]
    interval = "" if ends is None else f"[{_signed(ends[0])}, {_signed(ends[1])}] "
    return f"{interval}p {_p(entry['p_holm'])}"


def _p(value: float | None) -> str:
    if value is None:
        return "-"
    return "< 0.001" if value < 0.001 else f"{value:.3f}" if value < 0.1 else f"{value:.2f}"


def _caption(tests: Mapping[str, Any], reference: str) -> str:
    return (
        f"Differences from {reference} in percentage points, with 95 % intervals that are not corrected. "
        f"p: {tests['test']}, {tests['correction']}'s correction over the methods of a column. "
        f"Bold: p below {LEVEL:g}. p -: the difference is the same on all seeds, so nothing tells its spread."
    )
