"""Where a run's work is done, chosen on the command line."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys

import pytest

from promptfed.runs.directory import RunDirectory


def alone(*words):
    """The command line in a process of its own, with a Ray of its own."""
    command = [sys.executable, "-P", "-m", "promptfed.cli", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def outcome(folder):
    metrics = json.loads((folder / "metrics.json").read_text())
    return metrics["prompt_sha256"], metrics["method"], metrics["local_only"]


def test_options_that_go_with_ray_only_are_refused_elsewhere(promptfed, small, tmp_path):
    said = promptfed("train", *small, "--actors", "2", "--run", tmp_path / "run")
    assert said.code == 2
    assert "--actors goes with --engine ray" in said.err
    assert not (tmp_path / "run").exists()


def test_an_unknown_engine_is_named(promptfed, small):
    said = promptfed("train", *small, "--engine", "spark")
    assert said.code == 2
    assert "'spark'" in said.err
    assert "Known: local, ray" in said.err


def test_a_black_box_stays_in_one_process(promptfed):
    said = promptfed("train", "--task", "blackbox-text", "--engine", "ray")
    assert said.code == 2
    assert "use --engine local" in " ".join(said.err.split()).lower()


def test_without_ray_the_extra_is_named(promptfed, small, tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "ray" else find(name, *rest))
    said = promptfed("train", *small, "--engine", "ray", "--run", tmp_path / "run")
    assert said.code == 2
    assert "pip install 'promptfed[ray]'" in said.err
    assert not (tmp_path / "run").exists()


def test_no_cluster_at_the_address_is_said_in_one_line(promptfed, small, tmp_path, monkeypatch):
    ray = pytest.importorskip("ray")
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    said = promptfed(
        "train", *small, "--engine", "ray", "--ray-address", "127.0.0.1:1", "--run", tmp_path / "run", "--quiet"
    )
    assert said.code == 2
    assert "no Ray cluster can be joined there" in " ".join(said.err.split())
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_ray_gives_the_prompts_of_the_local_engine(small, finished, tmp_path):
    said = alone("train", *small, "--engine", "ray", "--actors", "2", "--run", tmp_path / "run", "--json")
    assert said.returncode == 0, said.stderr
    json.loads(said.stdout)
    assert outcome(tmp_path / "run") == outcome(finished)
    ours, theirs = (RunDirectory.open(folder).read_metrics()["cost"] for folder in (tmp_path / "run", finished))
    assert [ours[name] for name in ("bytes_up", "bytes_down")] == [theirs[name] for name in ("bytes_up", "bytes_down")]


@pytest.mark.slow
def test_a_run_may_go_on_elsewhere(promptfed, finished, tmp_path):
    """Cut off after the baselines, in the method's first round; then Ray, and back again."""
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    shutil.rmtree(folder / "checkpoints")
    (folder / "metrics.json").unlink()
    said = alone("train", "--resume", folder, "--engine", "ray", "--actors", "1", "--quiet")
    assert said.returncode == 0, said.stderr
    assert RunDirectory.open(folder).config.engine == "ray"
    assert outcome(folder) == outcome(finished)
    said = promptfed("train", "--resume", folder, "--engine", "local", "--quiet")
    assert said.code == 0, said.err
    config = RunDirectory.open(folder).config
    assert (config.engine, config.actors) == ("local", None)
    assert outcome(folder) == outcome(finished)
