"""The results of a suite as Markdown, for a terminal, a page or a paper's notes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

FRONT = "*"


def bench_markdown(results: Mapping[str, Any]) -> str:
    """Return one table for each entry of bench.json, with its notes, and what was left out."""
    seeds = results["seeds"]
    lines = [f"# Suite {results['suite']}", "", results["description"], ""]
    lines += [f"Mean ± standard deviation over {seeds} seeds." if seeds > 1 else "One seed.", ""]
    for key, entry in results["entries"].items():
        lines += [f"## {key}: {entry['title']}", ""]
        if why := entry.get("left_out"):
            lines += [f"Left out: {why}", *([f"It needs {entry['needs']}."] if entry["needs"] else []), ""]
            continue
        lines += _entry_lines(entry)
    return "\n".join(lines)


def _entry_lines(entry: Mapping[str, Any]) -> list[str]:
    scale, heading = _shown_as(entry)
    rows = [row for row in entry["rows"] if "mean" in row]
    has_queries = any(row["queries"] for row in rows)
    has_published = any(row["published"] for row in rows)
    header = ["method", heading, "bytes up a round", *(["queries"] if has_queries else []), "seconds"]
    header += ["published", "difference"] if has_published else []
    lines = [
        f"Setting: {_setting(entry['protocol'])}.",
        "",
        _line(header),
        _line(["---", *["---:"] * (len(header) - 1)]),
    ]
    for row in rows:
        spread = "" if row["std"] is None else f" ± {scale * row['std']:.{_digits(scale)}f}"
        mark = f" {FRONT}" if row["on_front"] else ""
        figure = f"{scale * row['mean']:.{_digits(scale)}f}{spread}{mark}"
        cells = [row["label"], figure, f"{row['bytes_up_a_round']:,.0f}"]
        cells += [f"{row['queries']:,.0f}"] if has_queries else []
        cells.append(f"{row['seconds']:.0f}")
        if has_published:
            paper = row["published"][0] if row["published"] else None
            cells += [f"{paper['value']:g}", f"{paper['difference']:+.1f}"] if paper else ["", ""]
        lines.append(_line(cells))
    lines += ["", f"{FRONT}: no method that sends fewer bytes is as good.", ""]
    lines += [f"- {row['label']} is left out: {row['left_out']}" for row in entry["rows"] if row["left_out"]]
    for row in rows:
        for paper in row["published"]:
            why = f"not comparable: {'; '.join(paper['differs'])}" if paper["differs"] else "the same protocol"
            lines.append(f"- {row['label']}: {paper['value']:g} is of {paper['source']}; {why}.")
    lines += [f"- {note}" for note in entry["notes"]]
    return [*lines, ""] if lines[-1] else lines


def _shown_as(entry: Mapping[str, Any]) -> tuple[float, str]:
    """Return what figures are multiplied by, and the heading of their column."""
    measure, _, part = entry["figure"].rpartition("/")
    if not measure:
        return 100, f"{part}, %"
    about = entry["measures"].get(measure) or {"name": measure, "unit": ""}
    is_share = about["unit"] == "%"
    name = f"{about['name']}, {part}"
    return (100, f"{name}, %") if is_share else (1, f"{name}, {about['unit']}" if about["unit"] else name)


def _digits(scale: float) -> int:
    return 1 if scale == 100 else 4


def _setting(protocol: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in protocol.items() if value is not None)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"
