"""Whole runs of tasks and methods that have no file of runs: cut off and resumed, and on Ray, to the same bits."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from typing import Any

import pytest

import promptfed as pf
from promptfed.errors import ConfigError

from .small_tasks import ASKED, RUNS

ALL = {**RUNS, **ASKED}
pytestmark = pytest.mark.slow


def outcome(run: pf.Run) -> tuple[str, Any]:
    return run.metrics["prompt_sha256"], run.metrics["method"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> dict[str, pf.Run]:
    return {}


@pytest.fixture
def local(request: pytest.FixtureRequest, finished: dict[str, pf.Run], tmp_path_factory) -> pf.Run:
    """Two rounds of what the test names, trained once."""
    name = request.getfixturevalue("name")
    if name not in finished:
        finished[name] = train(name, tmp_path_factory.mktemp(name) / "run")
    return finished[name]


def train(name: str, folder: Path, **options: Any) -> pf.Run:
    return pf.train(rounds=2, baselines=(), folder=folder, progress=False, **ALL[name], **options)


@pytest.mark.parametrize("name", ALL)
def test_a_run_without_its_last_checkpoint_goes_on_to_the_same_bits(name: str, local: pf.Run, tmp_path: Path) -> None:
    folder = tmp_path / "again"
    shutil.copytree(local.path, folder)
    shutil.rmtree(max((folder / "checkpoints").iterdir()))
    assert outcome(pf.load_run(folder).resume(progress=False)) == outcome(local)


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="no promptfed[ray]")
def test_ray_trains_the_same_prompts(name: str, local: pf.Run, tmp_path: Path) -> None:
    assert outcome(train(name, tmp_path / "run", engine="ray", actors=2)) == outcome(local)


@pytest.mark.parametrize("name", ASKED)
def test_methods_that_ask_a_black_box_do_not_run_on_ray(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a black box's budget, rate limit and concurrency are kept by one process"):
        train(name, tmp_path / "run", engine="ray", actors=2)
