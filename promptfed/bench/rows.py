"""The rows of a suite's table: our figure, its cost, and a published figure with what differs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from promptfed.bench.suite import Published
from promptfed.report.charts.scatter import pareto_front


def entry_rows(
    summary: Mapping[str, Any], figure: str, published: Sequence[Published], protocol: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Return a row for each method of a finished comparison, in its order.

    Args:
        summary: What comparison.json holds.
        figure: ``base`` and the like, or ``MEASURE/base``.
        published: Figures of papers.
        protocol: How ours came about.

    Returns:
        Rows with ``method``, ``label``, ``mean``, ``std``, ``seeds``, ``bytes_up_a_round``, ``seconds``, ``queries``,
        ``on_front`` (no method with fewer bytes is as good), and ``published``: ``value``, ``source``, ``difference``
        and ``differs``, the reasons why the two are not comparable. A method without a finished run has ``left_out``.
    """
    rows = []
    for name, about in summary["methods"].items():
        row: dict[str, Any] = {"method": name, "label": about["label"]}
        spread = value_of(about, figure) if about["runs"] else None
        if spread is None:
            rows.append({**row, "left_out": about["left_out"] or f"it has no figure '{figure}'"})
            continue
        row |= {
            "mean": spread["mean"],
            "std": spread["std"],
            "seeds": len(about["runs"]),
            "bytes_up_a_round": about["bytes_up_a_round"],
            "seconds": about["seconds"],
            "queries": about.get("oracle_queries") or 0,
            "left_out": about["left_out"],
        }
        row["published"] = [against(ours, row["mean"], figure, protocol) for ours in published if ours.method == name]
        rows.append(row)
    _mark_front(rows, is_lower_better(summary, figure))
    return rows


def value_of(about: Mapping[str, Any], figure: str) -> Mapping[str, Any] | None:
    """Return mean and standard deviation of ``figure``; None if the method has none."""
    measure, _, part = figure.rpartition("/")
    spread = about.get("measures", {}).get(measure, {}).get(part) if measure else about.get(part)
    return spread or None


def is_lower_better(summary: Mapping[str, Any], figure: str) -> bool:
    """Return whether less of ``figure`` is better."""
    measure = figure.rpartition("/")[0]
    return bool((summary.get("measures") or {}).get(measure, {}).get("better") == "lower")


def against(paper: Published, ours: float, figure: str, protocol: Mapping[str, Any]) -> dict[str, Any]:
    """Return a published figure beside ours, which is a share for the figures of accuracy."""
    shown = ours if figure.rpartition("/")[0] else 100 * ours
    differs = [
        f"{key} {theirs}, here {protocol.get(key)}"
        for key, theirs in paper.protocol.items()
        if str(theirs) != str(protocol.get(key))
    ]
    return {"value": paper.value, "source": paper.source, "difference": shown - paper.value, "differs": differs}


def _mark_front(rows: Sequence[dict[str, Any]], lower_is_better: bool) -> None:
    sign = -1 if lower_is_better else 1
    points = {row["method"]: (row["bytes_up_a_round"], sign * row["mean"]) for row in rows if "mean" in row}
    front = set(pareto_front(list(points.values())))
    for row in rows:
        if "mean" in row:
            row["on_front"] = points[row["method"]] in front
