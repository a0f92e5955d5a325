"""A small federation of cells and the bundled policy, for tests."""

from __future__ import annotations

from typing import Any

from promptfed.agreement import Agreement
from promptfed.config import build_config
from promptfed.examples.episodes import EpisodeForm
from promptfed.method import METHODS
from promptfed.policies.loading import load_policy
from promptfed.setup import Setup
from promptfed.tasks import TASKS
from promptfed.types import FederatedTask

SMALL = {"episodes": 6, "steps": 20, "val_episodes": 1, "test_episodes": 2, "held_out": 1}


def task_of(clients: int = 2, seed: int = 0, **options: Any) -> FederatedTask:
    """Return task ``allocation`` with these task options, small unless they say otherwise."""
    return TASKS["allocation"].build(
        build_config(
            {
                "task": "allocation",
                "data": "cells",
                "clients": clients,
                "partition_seed": seed,
                "task_options": {**SMALL, **options},
            }
        )
    )


def setup_of(task: FederatedTask, rounds: int = 10) -> Setup:
    """Return the policy and the agreement of ``task``."""
    assert isinstance(task.form, EpisodeForm)
    agreement = Agreement(classes=task.base_classes, templates=task.templates, rounds=rounds, seed=0)
    return Setup(load_policy("dt", task.form), agreement, "qoe")


def method_of(name: str, setup: Setup, **options: Any) -> Any:
    """Return a method with ``options``."""
    kind = METHODS[name]
    return kind(kind.Config(**options), setup)
