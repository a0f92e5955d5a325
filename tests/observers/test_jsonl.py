"""JSON lines that pandas and jq read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from promptfed.observers.choose import build_observers


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_run_and_its_continuation_are_one_file(story: Any, tmp_path: Path) -> None:
    trouble = ("incident", {"stage": "promptfl", "round": 1, "kind": "refused", "client": 3, "why": "too long"})
    story.tell(build_observers("jsonl"), story.start, *story.round(1), trouble, stops=True)
    story.tell(build_observers("jsonl"), story.resume, *story.round(2, 0.25), story.tests)
    written = lines(story.folder.path / "observed.jsonl")
    kinds = [
        "begin",
        "scalars",
        "scalars",
        "incident",
        "close",
        "begin",
        "scalars",
        "scalars",
        "scalars",
        "end",
        "close",
    ]
    assert [line["event"] for line in written] == kinds
    assert {line["identity"] for line in written} == {story.identity}
    rounds = {line["round"]: line["loss"] for line in written if "loss" in line}
    assert rounds == {1: 0.5, 2: 0.25}
    assert written[3]["why"] == "too long"
    assert written[-2]["metrics"] == {"method": {"base": 0.5}}


def test_a_device_without_an_end_is_not_read(story: Any) -> None:
    story.tell(build_observers({"jsonl": {"path": "/dev/zero"}}), story.start, *story.round(1))
    assert story.warnings == []


def test_a_file_of_another_place_is_told_all_that_was_before(story: Any, tmp_path: Path) -> None:
    story.tell([], story.start)
    for event, fields in [story.start, *story.round(1)]:
        story.folder.events.write(event, **fields)
    path = tmp_path / "elsewhere" / "all.jsonl"
    story.tell(build_observers({"jsonl": {"path": str(path)}}), story.resume, *story.round(2))
    assert [line["round"] for line in lines(path) if "val_accuracy" in line or "loss" in line] == [1, 2]
