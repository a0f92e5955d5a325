"""`promptfed bench`: a suite of one's own, run, gone on with, and shown."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml


@pytest.fixture
def own_suite(small: list[str], tmp_path: Path) -> Path:
    options = {
        "task": "clip-fewshot", "data": small[small.index("--data") + 1], "clients": 3, "shots": 2, "rounds": 2,
        "threads": 1, "partition": "classes", "backbone": "tiny",
        "task_options": {"val_shots": 1, "base_fraction": 0.5}, "method_options": {"batch_size": 2},
    }  # fmt: skip
    entries = {
        "pictures": {
            "title": "plain pictures", "methods": ["promptfl"], "options": options,
            "published": [{"method": "promptfl", "value": 50, "source": "nobody", "protocol": {"clients": 3}}],
        },
        "missing": {
            "title": "data that nobody has", "methods": ["promptfl"], "needs": "photographs",
            "options": {**options, "data": f"folder:{tmp_path / 'none'}"},
        },
    }  # fmt: skip
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump({"description": "own", "time": "seconds", "seeds": 1, "entries": entries}))
    return path


def test_a_suite_is_run_and_shown(promptfed: Callable[..., Any], own_suite: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    said = promptfed("bench", "run", own_suite, "--out", out, "--json")
    assert said.code == 0, said.err
    results = json.loads(said.out)
    rows = {row["method"]: row for row in results["entries"]["pictures"]["rows"]}
    assert set(rows) == {"zero_shot", "local_only", "promptfl"}
    comparison = json.loads((out / "pictures" / "comparison.json").read_text())
    assert rows["promptfl"]["mean"] == comparison["methods"]["promptfl"]["base"]["mean"]
    assert rows["promptfl"]["published"][0]["differs"] == []
    assert "none" in results["entries"]["missing"]["left_out"]

    shown = promptfed("bench", "table", out)
    assert shown.out.strip() == (out / "bench.md").read_text().strip()
    assert "the same protocol" in shown.out
    lines = promptfed("bench", "table", out, "--quiet").out.splitlines()
    assert [line.split("\t")[:2] for line in lines] == [["pictures", name] for name in rows]

    stamp = (out / "pictures" / "promptfl" / "seed-0" / "metrics.json").stat().st_mtime_ns
    digest = results["entries"]["pictures"]["partitions"]["0"]
    content = yaml.safe_load(own_suite.read_text())
    content["entries"]["pictures"]["partitions"] = {0: "0" * 64}
    own_suite.write_text(yaml.safe_dump(content))
    again = json.loads(promptfed("bench", "run", own_suite, "--out", out, "--json", "--only", "pictures").out)
    assert (out / "pictures" / "promptfl" / "seed-0" / "metrics.json").stat().st_mtime_ns == stamp, "it is kept"
    entry = again["entries"]["pictures"]
    assert entry["partitions"]["0"] == digest
    assert "other examples than the suite's at seed 0" in entry["notes"][0]


@pytest.mark.slow
def test_side_by_side_gives_the_same_rows(promptfed: Callable[..., Any], own_suite: Path, tmp_path: Path) -> None:
    content = yaml.safe_load(own_suite.read_text())
    content["entries"]["again"] = content["entries"]["pictures"]
    own_suite.write_text(yaml.safe_dump(content))
    words = ("bench", "run", own_suite, "--json", "--threads", "1", "--out")
    turn, both = (json.loads(promptfed(*words, tmp_path / j, "--jobs", j).out)["entries"] for j in ("1", "3"))
    assert list(turn) == list(both) == sorted(content["entries"])  # the order of the file
    assert both["missing"]["left_out"] == turn["missing"]["left_out"]
    for key in ("pictures", "again"):
        rows, alone = ([(row["method"], row["mean"]) for row in of[key]["rows"]] for of in (both, turn))
        assert rows == alone


def test_nothing_could_be_run(promptfed: Callable[..., Any], own_suite: Path, tmp_path: Path) -> None:
    said = promptfed("bench", "run", own_suite, "--out", tmp_path / "out", "--only", "missing", "--quiet")
    assert said.code == 2
    assert "no entry of suite" in said.err


def test_a_folder_without_results(promptfed: Callable[..., Any], tmp_path: Path) -> None:
    said = promptfed("bench", "table", tmp_path)
    assert (said.code, said.err.count("\n")) == (2, 1)
    assert "has no bench.json" in said.err
    (tmp_path / "bench.json").write_text('{"entries": []}')
    said = promptfed("bench", "table", tmp_path)
    assert (said.code, said.err.count("\n")) == (2, 1)
    assert "cannot read bench.json" in said.err


def test_the_list_names_suites_and_entries(promptfed: Callable[..., Any]) -> None:
    assert promptfed("bench", "list", "--quiet").out.splitlines()[0] == "mini"
    shown = promptfed("bench", "list").out
    assert "mini: " in shown
    assert "  images: " in shown
    assert "mini" in json.loads(promptfed("bench", "list", "--json").out)
