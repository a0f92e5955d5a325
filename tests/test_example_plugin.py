"""``examples/plugin``, installed as any package, adds one plug-in of each of the nine kinds."""

from __future__ import annotations

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples" / "plugin"
SCRIPT = ROOT / "tests" / "example_plugin_run.py"
OPTIONS: dict[str, Any] = {**runpy.run_path(str(SCRIPT))["NINE"], **runpy.run_path(str(SCRIPT))["SMALL"]}
FILES = ("method", "aggregator", "task", "source", "model", "engine", "processor", "measure", "observer")


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which Python finds the package, which is installed from a copy and without a network."""
    folder = tmp_path_factory.mktemp("installed")
    shutil.copytree(EXAMPLE, folder / "copy")
    options = ["--quiet", "--no-index", "--no-deps", "--no-build-isolation", "--disable-pip-version-check", "--target"]
    words = [sys.executable, "-m", "pip", "install", *options, str(folder / "target"), str(folder / "copy")]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {**os.environ, "PYTHONPATH": str(folder / "target")}


def python(environment: dict[str, str], *words: object) -> str:
    done = subprocess.run([sys.executable, "-P", *map(str, words)], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="session")
def used(installed: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    pytest.importorskip("flwr")
    folder, grid = tmp_path_factory.mktemp("used"), ROOT / "tests" / "deployment" / "fake_grid.py"
    printed = python(installed, SCRIPT, folder, grid)
    found: dict[str, Any] = json.loads(printed.splitlines()[-1])
    return found


def train(installed: dict[str, str], run: Path, **changed: Any) -> dict[str, Any]:
    """The figures of a run on the command line."""
    options = {**OPTIONS, **changed}
    flags = ["--observer", "best", "--quiet", "--run", str(run), "--baselines", "none"]
    for name in (
        "method",
        "aggregator",
        "task",
        "data",
        "backbone",
        "engine",
        "partition",
        "rounds",
        "shots",
        "clients",
    ):
        flags += [f"--{name}", str(options[name])]
    flags += ["--threads", "1", "--set", "processors=[subset]", "--set", "measures=[margin]"]
    flags += ["--set", "task.val_shots=1", "--set", "method.n_ctx=2", "--set", "method.local_epochs=1"]
    if options["engine"] == "ray":
        flags += ["--actors", "1"]
    python(installed, "-m", "promptfed", "train", *flags)
    metrics: dict[str, Any] = json.loads((run / "metrics.json").read_text())
    return metrics


@pytest.mark.slow
def test_all_nine_say_where_they_come_from(used: dict[str, Any]) -> None:
    assert used["origins"] == dict.fromkeys(used["origins"], "promptfed_example")
    assert len(used["origins"]) == 9


@pytest.mark.slow
def test_all_nine_by_the_api_and_by_command_line(
    used: dict[str, Any], installed: dict[str, str], tmp_path: Path
) -> None:
    assert used["api"]["best"].startswith("halved, round 1: 0.")
    assert "promptfed_config.json" in used["api"]["bundle"]
    metrics = train(installed, tmp_path / "run")
    assert metrics["prompt_sha256"] == used["api"]["sha256"]
    assert metrics["method"]["measures"]["margin"]["base"] == used["api"]["margin"]
    assert (tmp_path / "run" / "best.txt").read_text() == used["api"]["best"]


@pytest.mark.slow
def test_flower_s_sites_use_them(used: dict[str, Any]) -> None:
    assert used["flower"]["sha256"] == used["api"]["sha256"]
    assert used["flower"]["margin"] == pytest.approx(used["api"]["margin"], rel=1e-4)


@pytest.mark.slow
def test_ray_s_actors_use_them(used: dict[str, Any], installed: dict[str, str], tmp_path: Path) -> None:
    pytest.importorskip("ray")
    metrics = train(installed, tmp_path / "run", engine="ray")
    assert metrics["prompt_sha256"] == used["api"]["sha256"]
    assert metrics["method"]["measures"]["margin"]["base"] == used["api"]["margin"]


def test_the_page_shows_the_code_of_the_package() -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "extending.md").read_text(), re.S)
    for name in FILES:
        code = (EXAMPLE / "promptfed_example" / f"{name}.py").read_text().partition('"""\n\n')[2]
        assert any(code in block for block in blocks), f"{name}.py is not on the page as it is"
    registered = re.findall(
        r'^\[project\.entry-points\."promptfed\.(\w+)"\]', (EXAMPLE / "pyproject.toml").read_text(), re.M
    )
    assert sorted(registered) == sorted(f"{name}s" for name in FILES)
