"""A small federation of stations and the bundled forecaster, for tests."""

from __future__ import annotations

from typing import Any

from promptfed.agreement import Agreement
from promptfed.config import build_config
from promptfed.examples.series import SeriesForm
from promptfed.forecasters.loading import load_forecaster
from promptfed.method import METHODS
from promptfed.setup import Setup
from promptfed.tasks import TASKS
from promptfed.types import FederatedTask


def task_of(**options: Any) -> FederatedTask:
    """Return task ``forecast`` with these task options."""
    return TASKS["forecast"].build(build_config({"task": "forecast", "data": "fronts", "task_options": options}))


def setup_of(task: FederatedTask, rounds: int = 10, backbone: str = "tst") -> Setup:
    """Return the forecaster and the agreement of ``task``."""
    assert isinstance(task.form, SeriesForm)
    agreement = Agreement(classes=task.base_classes, templates=task.templates, rounds=rounds, seed=0)
    return Setup(load_forecaster(backbone, task.form), agreement, "mae")


def method_of(name: str, setup: Setup, **options: Any) -> Any:
    """Return a method with ``options``."""
    kind = METHODS[name]
    return kind(kind.Config(**options), setup)
