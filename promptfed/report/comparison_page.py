"""Write the files of a comparison: its page, with charts, tests and links to the runs, and its tables and plots."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from promptfed.files import strict_json
from promptfed.files.atomic import write_text
from promptfed.report.comparison import (
    FIGURES,
    QUERIES_NOTE,
    about,
    comparison_markdown,
    finished,
    interval_of,
    meaning_of,
    sections,
    seed_rows,
    spread_cell,
    title,
)
from promptfed.report.comparison_charts import TRADE_OFF_NOTE, Pareto, pareto, queries_chart, trade_off_chart
from promptfed.report.comparison_differences import comparison_warnings, difference_tables, verdict, why_no_test
from promptfed.report.html import REPORT_FILE, readable_bytes, render
from promptfed.report.tables import ResultRow, best_cells, interval, percent, without_empty, without_repeated
from promptfed.result_notes import flag, new_classes_line

Summary = Mapping[str, Any]
JSON, MARKDOWN, PAGE = "comparison.json", "comparison.md", "comparison.html"

ONE_SEED = "of one seed, with 95 % intervals over test examples (Wilson) and, of local, over clients (t)"


def write_comparison(summary: Summary, folder: Path) -> list[Path]:
    """Write comparison.json, .md, .png and .html into ``folder``, and queries.png with a black box.

    Returns:
        The paths of the files.
    """
    from promptfed.report.comparison_plot import accuracy_by_queries, trade_off
    from promptfed.report.figures import save

    paths = [folder / JSON, folder / MARKDOWN]
    write_text(paths[0], strict_json.dumps(dict(summary), indent=2) + "\n")
    write_text(paths[1], comparison_markdown(summary))
    for name, figure in (("comparison", trade_off(summary)), ("queries", accuracy_by_queries(summary))):
        if figure is not None:
            save(figure, folder / f"{name}.png", dpi=160, metadata={"Software": None})
            paths.append(folder / f"{name}.png")
    return [*paths, write_page(summary, folder)]


def write_page(summary: Summary, folder: Path) -> Path:
    """Write comparison.html; its links lead to the reports of runs that are in ``folder``."""
    write_text(folder / PAGE, render("comparison.html.j2", _content(summary, folder)))
    return folder / PAGE


def _content(summary: Summary, folder: Path) -> dict[str, Any]:
    """Return everything the template shows, as text and charts."""
    methods = finished(summary)
    planned, done = len(summary["methods"]) * len(summary["seeds"]), sum(len(m["runs"]) for m in methods.values())
    columns, _ = seed_rows(summary)
    front = pareto(methods)
    content = {
        "title": title(summary),
        "about": about(summary),
        "planned": planned,
        "done": done,
        "verdict": verdict(summary),
        "tiles": _tiles(methods),
        "warnings": comparison_warnings(summary),
        "accuracy": _accuracy(summary),
        "held_out": new_classes_line(summary.get("new_classes") or ()),
        "differences": difference_tables(summary),
        "no_test": why_no_test(summary),
        "pareto": front,
        "front_words": "" if front is None else _front_words(front),
        "pareto_rows": [] if front is None else _pareto_rows(front),
        "trade_off": trade_off_chart(methods),
        "trade_off_note": TRADE_OFF_NOTE,
        "queries": queries_chart(methods),
        "queries_note": QUERIES_NOTE,
        "tables": [_table(section) for section in sections(summary) if section["title"] != "Accuracy"],
        "columns": columns,
        "runs": _runs(summary, folder),
    }
    return {**content, "sections": _headings(content)}


def _headings(content: Mapping[str, Any]) -> list[tuple[str, str]]:
    present = [
        ("glance", "At a glance", True),
        ("warnings", "Read this first", content["warnings"]),
        ("accuracy", "Accuracy", True),
        ("differences", "Differences", content["differences"] or content["no_test"]),
        ("trade-offs", "Trade-offs", content["pareto"] or content["trade_off"]),
        *((table["id"], table["title"], True) for table in content["tables"]),
        ("runs", "Runs", content["runs"]),
    ]
    return [(id, heading) for id, heading, shown in present if shown]


def _tiles(methods: Mapping[str, Mapping[str, Any]]) -> list[dict[str, str]]:
    """Return a tile for each figure: the best method, its mean, and how far zero-shot is below."""
    tiles = []
    for key, name in FIGURES:
        if key == "local_all" or not methods or not all(method[key] for method in methods.values()):
            continue
        means = {method: entry[key]["mean"] for method, entry in methods.items()}
        best = max(means, key=lambda method: means[method])
        level = means.get("zero_shot")
        points = None if level is None or best == "zero_shot" else round(100 * means[best], 1) - round(100 * level, 1)
        tiles.append(
            {
                "name": f"highest {name}",
                "value": percent(means[best]),
                "method": best,
                "difference": "" if points is None else f"+{points:.1f} vs zero-shot",
            }
        )
    return tiles


def _accuracy(summary: Summary) -> tuple[list[str], list[ResultRow], str]:
    """Return the columns, the rows with intervals (over seeds, or of one seed over examples), and the caption."""
    methods = finished(summary)
    keys, names = zip(*FIGURES, strict=True)
    cells = without_repeated([[spread_cell(m.get(key)) for key in keys] for m in methods.values()])
    columns, shown = without_empty(names, cells)
    kept = [key for key, name in FIGURES if name in columns]
    rows = [
        ResultRow(
            name,
            method["label"],
            row,
            best,
            tuple(interval(interval_of(method, key)) for key in kept),
            flag(method.get("below_zero_shot") or ()),
        )
        for (name, method), row, best in zip(methods.items(), shown, best_cells(shown), strict=True)
    ]
    rows += [
        ResultRow(name, method["label"], ("-",) * len(columns), (False,) * len(columns), (), method["left_out"])
        for name, method in summary["methods"].items()
        if name not in methods and method["left_out"]
    ]
    several = any(method.get("seed_intervals") for method in methods.values())
    lead = (
        "mean ± standard deviation over seeds (n - 1), and the 95 % interval of that mean (t)" if several else ONE_SEED
    )
    return columns, rows, f"Test accuracy in %, {lead}. {meaning_of(summary, columns)}"


def _front_words(front: Pareto) -> str:
    """Return in a sentence which methods no other one beats."""
    names = [name if front.places[name][0] else f"{name}, which sends nothing" for name in front.front]
    return f"Not dominated (no other method is at least as accurate with fewer bytes): {'; '.join(names)}."


def _pareto_rows(front: Pareto) -> list[tuple[str, list[str]]]:
    """Return (method, bytes, accuracy, whether it is on the front), with rising bytes."""
    ordered = sorted(front.places.items(), key=lambda item: (item[1][0], -item[1][1]))
    return [
        (name, [readable_bytes(round(size)), f"{accuracy:.1f}", "yes" if name in front.front else "no"])
        for name, (size, accuracy) in ordered
    ]


def _table(section: Mapping[str, Any]) -> dict[str, Any]:
    rows = [
        ResultRow(name, label, tuple(cells), tuple(best), (), section["notes"].get(name) or "")
        for name, label, cells, best in section["rows"]
    ]
    return {**section, "rows": rows, "id": section["title"].lower().replace(" ", "-")}


def _runs(summary: Summary, folder: Path) -> list[tuple[str, int, tuple[str, ...], str]]:
    """Return (method, seed, percents, address of the report or "") of every finished run."""
    _, rows = seed_rows(summary)
    paths = [str(run.get("run") or "") for method in finished(summary).values() for run in method["runs"]]
    return [(name, seed, cells, _address(path, folder)) for (name, seed, cells), path in zip(rows, paths, strict=True)]


def _address(path: str, folder: Path) -> str:
    """Return the relative address of a run's report; empty unless it is there, inside ``folder``."""
    report = folder / path / REPORT_FILE
    if not path or not report.is_file() or not report.resolve().is_relative_to(folder.resolve()):
        return ""
    return "/".join(Path(path).parts) + f"/{REPORT_FILE}"
