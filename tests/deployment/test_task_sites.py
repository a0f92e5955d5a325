"""Sites that play the clients of many tasks and methods: two rounds end with the local engine's prompts."""

from __future__ import annotations

from typing import Any

import pytest

from promptfed.config import build_config
from promptfed.errors import ConfigError
from promptfed.experiment import Experiment
from promptfed.resolve import complete

from ..small_tasks import ASKED, RUNS

pytestmark = pytest.mark.slow

REST = ("data", "backbone", "partition", "clients", "shots", "task_options", "method_options")


@pytest.mark.parametrize("name", RUNS)
def test_sites_end_with_the_prompt_of_the_local_engine(simulate, small: dict[str, Any], name: str) -> None:
    for option in REST:
        small.pop(option)
    config = complete(build_config({**small, "rounds": 2, **RUNS[name]}))
    simulation = simulate(**config.model_dump(mode="json"))
    federation = simulation.experiment.federation(engine=simulation.engine)
    plain = Experiment.build(config).federation()
    state, expected = federation.start(), plain.start()
    for _ in range(2):
        state, _ = federation.run_round(state)
        expected, _ = plain.run_round(expected)
    assert state.shared.sha256() == expected.shared.sha256()


@pytest.mark.parametrize("name", ASKED)
def test_methods_that_ask_a_black_box_are_refused(simulate, small: dict[str, Any], name: str) -> None:
    for option in REST:
        small.pop(option)
    with pytest.raises(ConfigError, match="black box"):
        simulate(**{**small, **ASKED[name]})
