"""How many comparisons of a suite run at a time."""

from __future__ import annotations

import pytest

from promptfed.bench import execute
from promptfed.bench.suite import Suite
from promptfed.progress import ComparisonProgress

ENTRY = {"title": "nothing", "methods": ["promptfl"]}
SUITE = Suite.model_validate({"description": "own", "time": "none", "jobs": 4, "entries": {"a": ENTRY, "b": ENTRY}})


@pytest.mark.parametrize(
    ("cores", "asked", "at_a_time"),
    [(8, None, 4), (2, None, 2), (1, None, "in turn"), (1, 3, 3), (8, 1, "in turn")],
)
def test_the_suite_says_how_many_up_to_the_cores_and_the_user_has_the_last_word(
    monkeypatch, tmp_path, cores, asked, at_a_time
):
    seen = []
    monkeypatch.setattr(execute, "available_cpus", lambda: cores)
    monkeypatch.setattr(execute, "side_by_side", lambda entries, jobs, *rest: seen.append(jobs) or iter(()))
    monkeypatch.setattr(execute, "_in_turn", lambda *rest: seen.append("in turn") or iter(()))
    execute.run_suite("own", SUITE, tmp_path, ComparisonProgress(), jobs=asked)
    assert seen == [at_a_time]
