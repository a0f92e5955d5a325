"""Runs that MLflow itself reads back, from a store of files and from a database."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from promptfed.observers.choose import build_observers

pytest.importorskip("mlflow")
pytestmark = pytest.mark.slow


@pytest.fixture(params=["files", "database"])
def client(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A client of the store that MLFLOW_TRACKING_URI names."""
    monkeypatch.chdir(tmp_path)
    if request.param == "files":
        monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", str(tmp_path / "mlruns"))
    else:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    from mlflow.tracking import MlflowClient

    return MlflowClient()


def test_a_run_and_its_continuation_are_one_record(story: Any, client: Any) -> None:
    mine = {"mlflow": {"experiment": "prompts"}}
    story.tell(build_observers(mine), story.start, *story.round(1), stops=True)
    story.folder.events.write("resume")  # a process that nobody watched trained round 2
    for event, fields in story.round(2, 0.25):
        story.folder.events.write(event, **fields)
    story.tell(build_observers(mine), story.resume, *story.round(3, 0.125), story.tests)
    assert story.warnings == []

    experiment = client.get_experiment_by_name("prompts")
    [record] = client.search_runs([experiment.experiment_id])
    assert (record.info.run_name, record.info.status) == ("tale", "FINISHED")
    assert record.data.params["method.lr"] == "0.125"
    assert record.data.tags["promptfed.run"] == story.identity
    history = client.get_metric_history(record.info.run_id, "promptfl/loss")
    assert [(metric.step, metric.value) for metric in history] == [(1, 0.5), (2, 0.25), (3, 0.125)]
    assert record.data.metrics["promptfl/test/base"] == 0.625
    assert record.data.metrics["promptfl/client_3/test_accuracy"] == 0.5
    names = {file.path for file in client.list_artifacts(record.info.run_id)}
    assert names == {"metrics.json", "report.html", "results.md"}
    metrics = json.loads(Path(client.download_artifacts(record.info.run_id, "metrics.json")).read_text())
    assert metrics == {"method": {"base": 0.5}}


def test_a_store_that_refuses_is_one_warning(story: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_ALLOW_FILE_STORE", raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", str(tmp_path / "mlruns"))
    story.tell(build_observers("mlflow"), story.start, *story.round(1))
    [warning] = story.warnings
    assert "observer 'mlflow' is left out: MlflowException" in warning
    assert "\n" not in warning
