"""Whole runs of tasks beyond classification: cut off and resumed, and on Ray, to the same bits."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from typing import Any

import pytest

import promptfed as pf

from .small_tasks import RUNS

pytestmark = pytest.mark.slow


def outcome(run: pf.Run) -> tuple[str, Any]:
    return run.metrics["prompt_sha256"], run.metrics["method"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> dict[str, pf.Run]:
    return {}


@pytest.fixture
def local(request: pytest.FixtureRequest, finished: dict[str, pf.Run], tmp_path_factory) -> pf.Run:
    """Two rounds of the task of the test, trained once."""
    task = request.getfixturevalue("task")
    if task not in finished:
        finished[task] = train(task, tmp_path_factory.mktemp(task) / "run")
    return finished[task]


def train(task: str, folder: Path, **options: Any) -> pf.Run:
    return pf.train(task=task, rounds=2, baselines=(), folder=folder, progress=False, **RUNS[task], **options)


@pytest.mark.parametrize("task", RUNS)
def test_a_run_without_its_last_checkpoint_goes_on_to_the_same_bits(task: str, local: pf.Run, tmp_path: Path) -> None:
    folder = tmp_path / "again"
    shutil.copytree(local.path, folder)
    shutil.rmtree(max((folder / "checkpoints").iterdir()))
    assert outcome(pf.load_run(folder).resume(progress=False)) == outcome(local)


@pytest.mark.parametrize("task", RUNS)
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="no promptfed[ray]")
def test_ray_trains_the_same_prompts(task: str, local: pf.Run, tmp_path: Path) -> None:
    assert outcome(train(task, tmp_path / "run", engine="ray", actors=2)) == outcome(local)
