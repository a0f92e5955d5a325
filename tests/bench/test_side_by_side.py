"""Comparisons in processes of their own stop when they are told to, and what is finished stays."""

from __future__ import annotations

from pathlib import Path

import pytest

from promptfed.bench.entry_result import Terms
from promptfed.bench.side_by_side import side_by_side
from promptfed.bench.suite import Entry
from promptfed.progress import ComparisonProgress
from promptfed.training import Interrupted

pytestmark = pytest.mark.slow


def entry(data: str) -> Entry:
    return Entry.model_validate({"title": "t", "methods": ["promptfl"], "options": {"data": data}})


def test_one_that_cannot_run_is_left_out_and_a_stop_is_obeyed(tmp_path: Path) -> None:
    told: list[str] = []

    class Told(ComparisonProgress):
        def note(self, text: str) -> None:
            told.append(text)

    entries = {"bad": entry(f"folder:{tmp_path / 'none'}"), "long": entry("icons")}
    results = side_by_side(
        entries, 1, tmp_path, Terms(1, threads=1), Told(), lambda: any("left)" in line for line in told)
    )
    key, result = next(results)
    assert key == "bad"
    assert "none" in result["left_out"]
    assert told[-1].endswith("(1 left)")
    with pytest.raises(Interrupted, match="1 of 2 comparisons are not finished"):
        next(results)
    assert not list((tmp_path / "long").glob("*/seed-*/metrics.json"))


def test_plug_ins_of_this_process_are_those_of_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "louder.py"
    file.write_text(
        "from promptfed.method import METHODS\n"
        "from promptfed.methods.promptfl import PromptFL\n\n\n"
        "@METHODS.register('louder')\n"
        "class Louder(PromptFL):\n"
        "    name = 'louder'\n"
    )
    monkeypatch.setattr("promptfed.bench.side_by_side.loaded_plugins", lambda: {str(file): ""})
    options = {"rounds": 1, "shots": 1, "clients": 2, "backbone": "tiny"}
    louder = Entry.model_validate({"title": "t", "methods": ["louder"], "options": options})
    ((_, result),) = side_by_side({"own": louder}, 2, tmp_path, Terms(1), ComparisonProgress(), lambda: False)
    assert "louder" in {row["method"] for row in result["rows"]}
