"""MLflow."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import Field

from promptfed.observers.base import OBSERVERS, Observer, ObserverConfig, RunDescription, RunOutcome, RunState
from promptfed.observers.scalars import Scalars
from promptfed.runs.events import Event

IDENTITY = "promptfed.run"
"""Tag by which a run is found again."""
STATES = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}
DEFAULTS = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3"}
"""Defaults of MLflow's variables; with its own 7 retries it waits four minutes for an absent server."""
LONGEST_PARAM, MOST_PARAMS = 500, 100
"""Characters of a value, and parameters in one request, that every MLflow server takes."""


@OBSERVERS.register("mlflow")
class MLflow(Observer):
    """A run of MLflow, on the server or in the store that MLFLOW_TRACKING_URI names.

    Credentials come from MLflow's own variables. A run that goes on continues the same run.
    """

    class Config(ObserverConfig):
        """Options of this observer."""

        experiment: str | None = Field(
            None, description="the experiment; by default MLFLOW_EXPERIMENT_NAME, else promptfed"
        )
        name: str | None = Field(None, description="the name of the run; by default that of its folder")

    config: Config
    packages, extra = ("mlflow",), "mlflow"

    def begin(self, run: RunDescription) -> str:
        for name, value in DEFAULTS.items():
            os.environ.setdefault(name, value)
        from mlflow.entities import Param
        from mlflow.tracking import MlflowClient

        for name in ("mlflow.store.db.utils", "alembic"):
            logging.getLogger(name).setLevel(logging.WARNING)  # else it logs ten lines about a new store
        self._client = client = MlflowClient()
        experiment = self._experiment(self.config.experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME") or "promptfed")
        records = client.search_runs([experiment], f"tags.`{IDENTITY}` = '{run.identity}'", max_results=1)
        if records:
            self._id = records[0].info.run_id
            client.update_run(self._id, status="RUNNING")
            self.replay(run, {stage: self._last_step(stage) for stage in run.steps})
        else:
            name = self.config.name or run.name
            self._id = client.create_run(experiment, run_name=name, tags={IDENTITY: run.identity}).info.run_id
            params = [Param(_key(name), str(value)[:LONGEST_PARAM]) for name, value in run.options.items()]
            for part in _parts(params, MOST_PARAMS):
                client.log_batch(self._id, params=part)
            self.replay(run)
        address = client.tracking_uri
        return (
            f"{address}/#/experiments/{experiment}/runs/{self._id}"
            if address.startswith("http")
            else (f"mlflow ui --backend-store-uri {address}")
        )

    def event(self, event: Event) -> None:
        if event["event"] == "stopped":
            self._client.set_tag(self._id, "stopped", str(event.get("why", "")))

    def log(self, scalars: Scalars) -> None:
        from mlflow.entities import Metric

        time = int(1000 * scalars.time)
        metrics = [Metric(_key(name), value, time, scalars.step) for name, value in scalars.named().items()]
        self._client.log_batch(self._id, metrics=metrics)

    def end(self, outcome: RunOutcome) -> None:
        self._client.log_dict(self._id, dict(outcome.metrics), "metrics.json")
        self._client.log_text(self._id, outcome.markdown(), "results.md")
        if outcome.report is not None:
            self._client.log_artifact(self._id, str(outcome.report))

    def close(self, state: RunState) -> None:
        if hasattr(self, "_id"):
            self._client.set_terminated(self._id, STATES[state])

    def _experiment(self, name: str) -> str:
        """Return the identifier of the experiment ``name``, which is made if it is not there."""
        from mlflow.exceptions import MlflowException

        if (experiment := self._client.get_experiment_by_name(name)) is not None:
            return str(experiment.experiment_id)
        try:
            return str(self._client.create_experiment(name))
        except MlflowException:  # another process made it at the same moment
            if (experiment := self._client.get_experiment_by_name(name)) is None:
                raise
            return str(experiment.experiment_id)

    def _last_step(self, stage: str) -> int:
        """Return the last round of ``stage`` that is on record, -1 if there is none."""
        history = self._client.get_metric_history(self._id, _key(f"{stage}/clients"))
        return max((metric.step for metric in history), default=-1)


def _key(name: str) -> str:
    """Return ``name`` with only the characters that MLflow takes."""
    return re.sub(r"[^\w. /-]", "_", name)


def _parts(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
