"""Whole runs of task allocation: interrupted, on Ray, private, personalised; what is refused is refused in one line."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import pytest
import torch

import promptfed as pf
from promptfed.errors import BundleError, ConfigError
from promptfed.personalize.onboard import newcomer_source

from .small_cells import SMALL

pytestmark = pytest.mark.slow
Train = Callable[..., pf.Run]


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory) -> Train:
    """Train on few short episodes of two cells, in folders of their own."""
    place, numbers = tmp_path_factory.mktemp("cells"), iter(range(1000))

    def run(method: str = "promptdt", **options: Any) -> pf.Run:
        usual: dict[str, Any] = {
            "task": "allocation", "clients": 2, "rounds": 3, "progress": False, "baselines": (),
            "task_options": SMALL, "method_options": {"local_epochs": 1} if method == "promptdt" else {},
        }  # fmt: skip
        return pf.train(method, folder=place / f"run {next(numbers)}", **{**usual, **options})

    return run


def test_a_run_without_its_last_checkpoint_goes_on_to_the_same_bits(train: Train) -> None:
    whole = train()
    expected, table = whole.metrics["prompt_sha256"], whole.metrics["method"]
    newest = max((whole.path / "checkpoints").iterdir())
    for file in newest.iterdir():
        file.unlink()
    newest.rmdir()
    again = pf.load_run(whole.path).resume(progress=False)
    assert again.metrics["prompt_sha256"] == expected
    assert again.metrics["method"] == table


def test_all_baselines_stand_in_one_table(train: Train) -> None:
    baselines = (
        "random_allocation", "preferred_allocation", "lowest_allocation", "expert_allocation", "zero_shot",
        "trajectory_prompt", "local_only",
    )  # fmt: skip
    metrics = train(rounds=1, baselines=baselines).metrics
    rows = [metrics[name] for name in (*baselines, "method")]
    assert [row["name"] for row in rows] == [
        "random", "preferred, equal shares", "all lowest", "searching expert", "zero-shot", "trajectory prompt",
        "local-only", "PromptDT",
    ]  # fmt: skip
    assert all(set(row["measures"]) == {"qoe", "normalised", "late", "qoe_sd"} for row in rows)
    assert metrics["expert_allocation"]["measures"]["normalised"]["base"] == pytest.approx(100)
    assert metrics["random_allocation"]["measures"]["normalised"]["new"] == pytest.approx(0)
    assert metrics["examples"] == "episodes"


def test_clipped_and_noisy_updates_of_clients(train: Train) -> None:
    run = train(rounds=2, privacy_options={"dp": "client", "noise": 0.5, "delta": 1e-3, "clip": 0.5})
    assert run.metrics["privacy"]


def test_personal_prompts_and_what_is_refused(train: Train) -> None:
    run = train()
    run.personalize()
    assert len(list((run.path / "personalized").iterdir())) >= 2
    with pytest.raises(BundleError, match="has no bundle yet"):
        run.export(client=0, path=run.path / "bundle")
    with pytest.raises(ConfigError, match="a new cell uses the shared prompt"):
        newcomer_source(run.finished, "cells")
    with pytest.raises(ConfigError, match="a client learns its best episodes"):
        train(privacy_options={"dp": "example", "noise": 1.0, "delta": 1e-3, "clip": 1.0})
    with pytest.raises(ConfigError, match="backbone 'tiny' does not act in episodes"):
        train(backbone="tiny")
    with pytest.raises(ConfigError, match="use task allocation"):
        train(task="clip-fewshot", backbone="dt", task_options={}, method="promptfl")


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs promptfed[ray]")
def test_ray_trains_the_same_prompt(train: Train) -> None:
    local, ray = train(rounds=1), train(rounds=1, engine="ray", actors=1)
    for name, tensor in local.prompt().shared.items():
        torch.testing.assert_close(ray.prompt().shared[name], tensor)
