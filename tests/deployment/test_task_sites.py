"""Sites that play the clients of tasks beyond classification: two rounds end with the local engine's prompt."""

from __future__ import annotations

from typing import Any

import pytest

from promptfed.config import build_config
from promptfed.experiment import Experiment
from promptfed.resolve import complete

from ..small_tasks import RUNS

pytestmark = pytest.mark.slow

REST = ("data", "backbone", "partition", "clients", "shots", "task_options", "method_options")


@pytest.mark.parametrize("task", RUNS)
def test_sites_end_with_the_prompt_of_the_local_engine(simulate, small: dict[str, Any], task: str) -> None:
    for name in REST:
        small.pop(name)
    config = complete(build_config({**small, "task": task, "rounds": 2, **RUNS[task]}))
    simulation = simulate(**config.model_dump(mode="json"))
    federation = simulation.experiment.federation(engine=simulation.engine)
    plain = Experiment.build(config).federation()
    state, expected = federation.start(), plain.start()
    for _ in range(2):
        state, _ = federation.run_round(state)
        expected, _ = plain.run_round(expected)
    assert state.shared.sha256() == expected.shared.sha256()
