"""Which stages a run has."""

from __future__ import annotations

import pytest

from promptfed.config import build_config
from promptfed.experiment import Experiment, resolve
from promptfed.runs.directory import RunDirectory
from promptfed.training import Training


@pytest.fixture(scope="module")
def experiment():
    options = {"data": "icons:codicons,elusive", "clients": 2, "shots": 1, "rounds": 1,
               "task_options": {"test_per_class": 2, "val_shots": 1}, "method_options": {"n_ctx": 2}}  # fmt: skip
    return Experiment.build(resolve(build_config(options)))


def test_without_baselines_only_the_method_is_run_with_the_same_outcome(experiment, tmp_path):
    whole, part = (RunDirectory.create(tmp_path / name, experiment.config, label="") for name in ("whole", "part"))
    all_metrics = Training(experiment, whole).execute()
    metrics = Training(experiment, part, baselines=()).execute()
    assert {"zero_shot", "local_only", "template"}.isdisjoint(metrics)
    assert metrics["method"] == all_metrics["method"]
    assert metrics["prompt_sha256"] == all_metrics["prompt_sha256"]
    assert {e["stage"] for e in part.events.read() if "stage" in e} == {"promptfl"}
    assert not (tmp_path / "part" / "baselines").exists()


def test_training_alone_scores_no_test_image(experiment, tmp_path):
    run = RunDirectory.create(tmp_path / "run", experiment.config, label="")
    trained = Training(experiment, run, baselines=()).train()
    assert list(trained) == ["promptfl"]
    assert trained["promptfl"][1].round == 1
    assert run.read_metrics() is None
    assert "evaluation" not in {e["event"] for e in run.events.read()}


def test_the_baselines_can_be_added_later(experiment, tmp_path):
    """A run of a comparison, taken up again as a run of its own."""
    run = RunDirectory.create(tmp_path / "run", experiment.config, label="")
    first = Training(experiment, run, baselines=()).execute()
    second = Training(experiment, run).execute()
    assert {"zero_shot", "local_only", "template"} <= set(second)
    assert second["method"] == first["method"]
