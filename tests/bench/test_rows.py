"""Rows of a suite's table against hand-computed values."""

from __future__ import annotations

from typing import Any

import pytest

from promptfed.bench.rows import entry_rows
from promptfed.bench.suite import Published
from promptfed.bench.table import bench_markdown

PROTOCOL = {"backbone": "tiny", "oracle": None, "data": "icons", "clients": 8, "rounds": 10, "shots": 8, "seeds": 3}


def method(label: str, base: float | None, size: float, **others: Any) -> dict[str, Any]:
    spread = None if base is None else {"mean": base, "std": 0.01}
    runs = [] if base is None else [{}, {}, {}]
    about = {"label": label, "left_out": "", "runs": runs, "base": spread, "bytes_up_a_round": size, "seconds": 2.0}
    return {**about, **others}


SUMMARY = {
    "methods": {
        "zero_shot": method("zero-shot", 0.40, 0),
        "promptfl": method("PromptFL", 0.62, 8000),
        "fedtpg": method("FedTPG", 0.60, 90_000),
        "maple": method("MaPLe", 0.70, 120_000),
        "kgcoop": method("KgCoOp", None, 0, left_out="it needs another backbone"),
    }
}
PAPER = Published(
    method="promptfl",
    value=74.5,
    source="a paper, table 1",
    protocol={"backbone": "ViT-B/16", "clients": 8, "seeds": 3},
)


def test_a_published_figure_stands_beside_ours_with_what_differs() -> None:
    rows = {row["method"]: row for row in entry_rows(SUMMARY, "base", [PAPER], PROTOCOL)}
    [paper] = rows["promptfl"]["published"]
    assert paper["difference"] == pytest.approx(62 - 74.5)
    assert paper["differs"] == ["backbone ViT-B/16, here tiny"]
    assert rows["fedtpg"]["published"] == []


def test_the_front_has_the_best_of_each_size() -> None:
    rows = {row["method"]: row.get("on_front") for row in entry_rows(SUMMARY, "base", [], PROTOCOL)}
    assert rows == {"zero_shot": True, "promptfl": True, "fedtpg": False, "maple": True, "kgcoop": None}


def test_of_a_measure_whose_less_is_better_the_front_turns_round() -> None:
    def error(mean: float, size: float) -> dict[str, Any]:
        return method("x", 0.5, size, measures={"mae": {"base": {"mean": mean, "std": None}}})

    described = {"mae": {"name": "MAE", "better": "lower", "unit": "degrees"}}
    summary = {"measures": described, "methods": {"a": error(0.3, 0), "b": error(0.2, 10), "c": error(0.25, 20)}}
    paper = Published(method="b", value=0.25, source="a paper", protocol={"clients": 8})
    rows = entry_rows(summary, "mae/base", [paper], PROTOCOL)
    assert [row["on_front"] for row in rows] == [True, True, False]
    assert rows[1]["published"][0]["difference"] == pytest.approx(-0.05)
    assert rows[1]["published"][0]["differs"] == []


def test_the_table_says_all_of_it() -> None:
    entry = {
        "title": "icons", "needs": "", "figure": "base", "protocol": PROTOCOL, "partitions": {}, "measures": {},
        "rows": entry_rows(SUMMARY, "base", [PAPER], PROTOCOL), "notes": ["a note"],
    }  # fmt: skip
    missing = {"title": "photos", "needs": "your photographs", "figure": "base", "left_out": "folder 'x' is missing"}
    text = bench_markdown({"suite": "s", "description": "d", "seeds": 3, "entries": {"one": entry, "two": missing}})
    lines = text.splitlines()
    assert "| PromptFL | 62.0 ± 1.0 * | 8,000 | 2 | 74.5 | -12.5 |" in lines
    assert "| FedTPG | 60.0 ± 1.0 | 90,000 | 2 |  |  |" in lines
    assert "- PromptFL: 74.5 is of a paper, table 1; not comparable: backbone ViT-B/16, here tiny." in lines
    assert "- KgCoOp is left out: it needs another backbone" in lines
    assert {"- a note", "Left out: folder 'x' is missing", "It needs your photographs."} <= set(lines)
