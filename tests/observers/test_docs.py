"""The observer that docs/extending.md writes, and the Python of docs/observers.md."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from promptfed.observers.base import OBSERVERS
from promptfed.observers.choose import build_observers

DOCS = Path(__file__).parents[2] / "docs"


def blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), re.S)


def test_the_observer_of_the_page_records_a_run_and_its_continuation(story: Any) -> None:
    [code] = [block for block in blocks("extending.md") if "OBSERVERS.register" in block]
    try:
        exec(compile(code, "docs/extending.md", "exec"), {"__name__": "my_observer"})
        named = [story.client(1), ("round", {"stage": "promptfl", "round": 1, "val_accuracy": 0.75})]
        story.tell(build_observers("best:path=top.txt"), story.start, *named, stops=True)
        worse = ("round", {"stage": "promptfl", "round": 2, "val_accuracy": 0.5})
        story.tell(build_observers("best:path=top.txt"), story.resume, worse)
    finally:
        OBSERVERS._entries.pop("best", None)
    assert story.warnings == []
    lines = (story.folder.path / "top.txt").read_text().splitlines()
    assert lines == ["promptfl, round 1: 0.750", "| method | base |", "| --- | --- |", "| a\\|b | 50.0 |"]


@pytest.mark.slow
def test_the_python_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorboard")
    monkeypatch.chdir(tmp_path)
    for block in blocks("observers.md"):
        exec(compile(block, "docs/observers.md", "exec"), {"__name__": "page"})
    assert len((tmp_path / "runs" / "watched" / "observed.jsonl").read_text().splitlines()) > 10
    told = (tmp_path / "figures.jsonl").read_text()
    assert all(f'"stage": "promptfl", "round": {number}' in told for number in (1, 2, 3)), "the past is told too"
