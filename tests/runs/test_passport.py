"""run.json: deleted it is missed, changed it is refused, and what it tells of other files is compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from promptfed.config import RunConfig
from promptfed.errors import RunError
from promptfed.runs.directory import RunDirectory
from promptfed.runs.passport import FILE, GONE, check_passport, write_passport

PARTITION: dict[str, Any] = {"clients": [], "classes": ["a", "b"]}


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    """A finished run, as far as its files are compared."""
    made = RunDirectory.create(tmp_path / "run", RunConfig(), label="x")
    made.events.write("run_end")
    made.write_json("partition.json", PARTITION)
    made.write_metrics({"method": {}})
    write_passport(made, PARTITION, is_finished=True)
    assert check_passport(made) == []
    return made


def test_deleted_it_is_said_in_one_line(run: RunDirectory) -> None:
    (run.path / FILE).unlink()
    assert check_passport(run) == [GONE]
    assert "\n" not in GONE
    (run.path / "partition.json").unlink()
    assert check_passport(run) == [], "nothing was done in it yet"


@pytest.mark.parametrize(("old", "new"), [('"rounds"', '"roundz"'), ('"format": 1', '"format": 3'), ("{", "[")])
def test_changed_it_is_refused_in_one_line(run: RunDirectory, old: str, new: str) -> None:
    path = run.path / FILE
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(RunError, match=FILE) as refused:
        check_passport(run)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("option", [{"seed": 7}, {"shots": 3}, {"method": "kgcoop"}])
def test_other_options_are_refused(run: RunDirectory, option: dict[str, Any]) -> None:
    run.reconfigure(run.config.model_copy(update=option))
    with pytest.raises(RunError, match=f"not the one that it was made with: .*{next(iter(option))} was"):
        check_passport(run)


@pytest.mark.parametrize("partition", [None, {}, {**PARTITION, "classes": ["b", "a"]}])
def test_other_data_are_refused(run: RunDirectory, partition: dict[str, Any] | None) -> None:
    run.remove("partition.json")
    if partition is not None:
        run.write_json("partition.json", partition)
    with pytest.raises(RunError, match=r"partition\.json of run .* is (gone|not the one)"):
        check_passport(run)


def test_another_event_log_is_said(run: RunDirectory) -> None:
    content = run.events.path.read_bytes()
    run.events.path.write_bytes(content.replace(b"run_end", b"run_enD"))
    assert ["not what was written" in line for line in check_passport(run)] == [True]
    run.events.path.unlink()
    assert ["is gone" in line for line in check_passport(run)] == [True]
    run.events.path.write_bytes(content + json.dumps({"event": "later", "time": "t"}).encode() + b"\n")
    assert check_passport(run) == [], "what was written later is not the run's training"
