"""run.json: deleted it is missed, changed it is refused, and what it tells of other files is compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from promptfed.config import RunConfig
from promptfed.errors import DataError, RunError
from promptfed.prompt_state import PromptState
from promptfed.report.summary import run_summary
from promptfed.runs.checkpoint import Checkpoint
from promptfed.runs.directory import RunDirectory
from promptfed.runs.passport import FILE, GONE, check_lost_partition, check_passport, identity_of, write_passport
from promptfed.types import FederationState

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
    with pytest.raises(RunError, match=f"has changed since the run was made: .*{next(iter(option))} was"):
        check_passport(run)


@pytest.mark.parametrize("partition", [None, {}, {**PARTITION, "classes": ["b", "a"]}])
def test_other_data_are_refused(run: RunDirectory, partition: dict[str, Any] | None) -> None:
    run.remove("partition.json")
    if partition is not None:
        run.write_json("partition.json", partition)
    with pytest.raises(RunError, match=r"partition\.json of run .* is (gone|not the one)"):
        check_passport(run)


def test_a_lost_partition_is_recognised_by_its_digest(run: RunDirectory) -> None:
    run.remove("partition.json")
    assert "the data are those of run.json" in check_lost_partition(run, PARTITION)
    with pytest.raises(
        DataError, match=r"partition\.json of run .* is gone, and data and model are not those"
    ) as error:
        check_lost_partition(run, {**PARTITION, "classes": ["b", "a"]})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [None, "["])
def test_without_a_digest_it_is_said_that_the_data_are_not_compared(run: RunDirectory, content: str | None) -> None:
    run.remove(FILE)
    if content is not None:
        (run.path / FILE).write_text(content)
    assert "the data are not compared" in check_lost_partition(run, {**PARTITION, "classes": ["b", "a"]})


def test_another_event_log_is_said(run: RunDirectory) -> None:
    content = run.events.path.read_bytes()
    run.events.path.write_bytes(content.replace(b"run_end", b"run_enD"))
    assert ["not what was written" in line for line in check_passport(run)] == [True]
    run.events.path.unlink()
    assert ["is gone" in line for line in check_passport(run)] == [True]
    run.events.path.write_bytes(content + json.dumps({"event": "later", "time": "t"}).encode() + b"\n")
    assert check_passport(run) == [], "what was written later is not the run's training"


def checkpoint(identity: str) -> Checkpoint:
    return Checkpoint(FederationState(1, PromptState({"ctx": torch.ones(2)})), 0, run=identity)


def test_a_run_keeps_its_identity(run: RunDirectory) -> None:
    identity = identity_of(run, {})
    assert len(identity) == 32
    assert identity != identity_of(run, {}), "one that an earlier version began has none yet"
    write_passport(run, PARTITION, identity)
    assert identity_of(run, {"promptfl": None}) == identity
    assert identity_of(run, {"promptfl": checkpoint(identity), "zero_shot": checkpoint("")}) == identity
    (run.path / FILE).unlink()
    assert identity_of(run, {"promptfl": checkpoint(identity)}) == identity


@pytest.mark.parametrize("stage", ["zero_shot", "local_only", "promptfl"])
def test_checkpoints_of_another_run_are_refused(run: RunDirectory, stage: str) -> None:
    write_passport(run, PARTITION, "a" * 32)
    own = dict.fromkeys(("zero_shot", "local_only", "promptfl"), checkpoint("a" * 32))
    assert identity_of(run, own) == "a" * 32
    with pytest.raises(RunError, match=f"checkpoints of {stage} in run .* are of another run: ") as refused:
        identity_of(run, own | {stage: checkpoint("b" * 32)})
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("metrics", [{}, {"method": {"base": 0.9}}, {"method": {}, "zero_shot": {}}])
def test_figures_of_another_run_are_refused(run: RunDirectory, metrics: dict[str, Any]) -> None:
    run.write_metrics(metrics)
    with pytest.raises(RunError, match=r"metrics\.json of run .* is not the one that the run was finished with"):
        check_passport(run)
    assert run_summary(run.path)["state"].startswith("damaged: metrics.json")
    write_passport(run, PARTITION, is_finished=True)
    assert check_passport(run) == []
    assert run_summary(run.path)["state"] == ("finished" if metrics else "unfinished")
