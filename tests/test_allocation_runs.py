"""Whole runs of task allocation: interrupted, on Ray, private, personalised; what is refused is refused in one line."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from typing import Any

import pytest
import torch

import promptfed as pf
from promptfed.errors import BundleError, ConfigError, RunError
from promptfed.methods.promptdt import PromptDT
from promptfed.personalize.onboard import newcomer_source

from .small_cells import SMALL

pytestmark = pytest.mark.slow
FOUR = {"local_epochs": 1, "rank": 4}
"""A prompt of four numbers."""
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


def drop_last_checkpoint(run: pf.Run) -> None:
    """Make ``run`` look as if it had been stopped before its last round ended."""
    newest = max((run.path / "checkpoints").iterdir())
    for file in newest.iterdir():
        file.unlink()
    newest.rmdir()


@pytest.mark.parametrize("options", [{"local_epochs": 1}, FOUR], ids=["tokens", "weights"])
def test_a_run_without_its_last_checkpoint_goes_on_to_the_same_bits(train: Train, options: dict[str, Any]) -> None:
    whole = train(method_options=options)
    expected, table = whole.metrics["prompt_sha256"], whole.metrics["method"]
    drop_last_checkpoint(whole)
    again = pf.load_run(whole.path).resume(progress=False)
    assert again.metrics["prompt_sha256"] == expected
    assert again.metrics["method"] == table


def test_a_run_with_weights_keeps_its_directions_and_refuses_others(
    train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = train(method_options=FOUR, rounds=2, baselines=("local_only",))
    run.personalize()
    assert {tuple(tensor.shape) for tensor in run.prompt(0).shared.values()} == {(4,)}
    assert set(run.prompt(0).personal) == {"offset"}
    assert len(json.loads((run.path / "partition.json").read_text())["basis"]) == 64
    drop_last_checkpoint(run)
    monkeypatch.setattr(PromptDT, "basis", "b" * 64)
    for go_on in (lambda: pf.load_run(run.path).resume(progress=False), lambda: pf.load_run(run.path).evaluate()):
        with pytest.raises(RunError, match=r"and this promptfed has others \(b{12}\): use the version") as refusal:
            go_on()
        assert "\n" not in str(refusal.value)


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
@pytest.mark.parametrize("options", [{"local_epochs": 1}, FOUR], ids=["tokens", "weights"])
def test_ray_trains_the_same_prompt(train: Train, options: dict[str, Any]) -> None:
    local = train(rounds=1, method_options=options)
    ray = train(rounds=1, method_options=options, engine="ray", actors=1)
    for name, tensor in local.prompt().shared.items():
        torch.testing.assert_close(ray.prompt().shared[name], tensor)
