"""`train --resume RUN --rounds N`: a finished run goes on for more rounds, or is refused in one line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from promptfed.config import build_config
from promptfed.errors import BackboneError
from promptfed.resolve import resolve
from promptfed.runs.directory import RunDirectory

Promptfed = Callable[..., Any]


@pytest.mark.parametrize("rounds", [2, 1])
def test_a_number_that_is_not_larger_is_refused(
    finished: Path, tmp_path: Path, promptfed: Promptfed, rounds: int
) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    said = promptfed("train", "--resume", run, "--rounds", rounds)
    assert said.code == 2
    assert f"--rounds {rounds}: run '{run}' has 2 rounds already; give a larger number" in said.err
    assert said.err.count("error:") == 1
    assert (run / "metrics.json").read_bytes() == (finished / "metrics.json").read_bytes()
    assert RunDirectory.open(run).config.rounds == 2


@pytest.mark.parametrize("rounds", [0, -3, "many"])
def test_a_number_that_is_none_is_refused(
    finished: Path, tmp_path: Path, promptfed: Promptfed, rounds: int | str
) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    said = promptfed("train", "--resume", run, f"--rounds={rounds}")
    assert said.code == 2
    assert "Traceback" not in said.err
    assert RunDirectory.open(run).config.rounds == 2


def test_a_run_goes_on_with_what_set_says_and_with_nothing_else(
    finished: Path, tmp_path: Path, promptfed: Promptfed
) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    said = promptfed("train", "--resume", run, "--set", "shots=4", "--set", "method.lr=1")
    assert (said.code, RunDirectory.open(run).config.shots) == (2, 2)
    assert "cannot go on with other values of method_options, shots" in said.err
    said = promptfed("train", "--resume", run, "--set", "rounds=3", "--round-seconds", 600, "--json")
    assert said.code == 0
    config = RunDirectory.open(run).config
    assert (config.rounds, config.round_seconds) == (3, 600)


def test_a_resume_that_cannot_begin_changes_no_option(
    finished: Path, tmp_path: Path, promptfed: Promptfed, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = shutil.copytree(finished, tmp_path / "run")

    def gone(*_: Any, **__: Any) -> None:
        raise BackboneError("the weights are gone")

    monkeypatch.setattr("promptfed.objects.load_text_tower", gone)
    for _ in range(2):
        said = promptfed("train", "--resume", run, "--rounds", 4, "--engine", "local")
        assert said.err.splitlines()[-1] == "error: the weights are gone"
        assert (run / "config.yaml").read_bytes() == (finished / "config.yaml").read_bytes()


@pytest.mark.parametrize(
    ("file", "path", "value", "line"),
    [
        ("partition.json", ("classes", 0), "a thing", "have changed since it started"),
        ("partition.json", ("content", "clients", 0), "0" * 64, "have changed since it started"),
        ("partition.json", ("content", "tests"), "0" * 64, "the test examples are others"),
        ("partition.json", ("backbone", "fingerprint"), "0" * 64, "is another model"),
        ("run.json", ("run",), "another", "are of another run"),
    ],
)
def test_a_resume_on_other_data_leaves_the_run_as_it_is(
    finished: Path,
    tmp_path: Path,
    promptfed: Promptfed,
    file: str,
    path: tuple[str | int, ...],
    value: str,
    line: str,
) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    record: Any = RunDirectory.open(run).read_json(file)
    place = record
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    RunDirectory.open(run).write_json(file, record)
    said = promptfed("train", "--resume", run, "--rounds", 4)
    assert said.code == 2
    assert line in said.err.splitlines()[-1]
    for name in ("config.yaml", "events.jsonl", "metrics.json"):
        assert (run / name).read_bytes() == (finished / name).read_bytes()


@pytest.mark.parametrize(
    "method", ["kgcoop", *(pytest.param(name, marks=pytest.mark.slow) for name in ("promptfl", "fedpgp"))]
)
@pytest.mark.slow
def test_at_a_constant_rate_the_bits_are_those_of_a_longer_run(
    tmp_path: Path, small: list[str], promptfed: Promptfed, method: str
) -> None:
    options = ["--method", method, "--set", "method.schedule=constant", "--baselines", "local_only", "--quiet"]
    for name, rounds in (("whole", 3), ("short", 1)):
        said = promptfed("train", *small, *options, "--rounds", rounds, "--run", tmp_path / name)
        assert said.code == 0, said.err
    said = promptfed("train", "--resume", tmp_path / "short", "--rounds", 3)
    assert said.code == 0, said.err
    assert "schedule" not in said.err
    whole, longer = _results(tmp_path / "whole"), _results(tmp_path / "short")
    assert longer == whole
    assert RunDirectory.open(tmp_path / "short").config.rounds == 3


def test_under_a_schedule_it_goes_on_and_says_what_that_means(
    finished: Path, tmp_path: Path, promptfed: Promptfed
) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    said = promptfed("train", "--resume", run, "--rounds", 4)
    assert said.code == 0, said.err
    words = " ".join(said.err.split())
    assert "follow a schedule over all rounds: the first 2 were trained for 2" in words
    assert "not that of a run of 4 from the start" in words
    rounds = [e["round"] for e in RunDirectory.open(run).events.read() if e["event"] == "round"]
    assert rounds[-2:] == [3, 4]
    assert promptfed("report", run).code == 0


@pytest.mark.parametrize(
    ("method", "task"),
    [("finetune", "clip-fewshot"), ("fedng", "blackbox-text"), ("fedtextgrad", "blackbox-text")],
)
def test_where_the_last_round_is_another_it_is_refused(
    tmp_path: Path, promptfed: Promptfed, method: str, task: str
) -> None:
    config = resolve(build_config({"method": method, "task": task, "rounds": 2}))
    run = RunDirectory.create(tmp_path / "run", config, label=method)
    said = promptfed("train", "--resume", run.path, "--rounds", 3)
    assert said.code == 2
    assert "the last round of " in said.err
    assert "train anew with --rounds 3" in said.err
    assert RunDirectory.open(run.path).config.rounds == 2


def _results(run: Path) -> dict[str, Any]:
    """Prompts by checkpoint, and figures without times."""
    metrics = json.loads((run / "metrics.json").read_text())
    states = {str(p.relative_to(run)): p.read_bytes() for p in run.rglob("round-0003/state.safetensors")}
    assert len(states) == 2
    return {**{name: metrics[name] for name in ("method", "local_only", "prompt_sha256")}, **states}
