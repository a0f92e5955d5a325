"""Engines by name: what a plug-in must have, and what is said of a name that there is not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from promptfed.config import RunConfig, build_config
from promptfed.engines.base import Engine, Worker
from promptfed.engines.local import LocalEngine
from promptfed.engines.registry import ENGINES, check_engine
from promptfed.errors import ConfigError
from promptfed.experiment import Experiment
from promptfed.resolve import resolve
from promptfed.types import Job, Reply

SMALL = {"rounds": 1, "shots": 1, "clients": 2, "method_options": {"n_ctx": 2, "local_epochs": 1}}


class Backwards(LocalEngine):
    """The last client first."""

    order: list[int] = []  # noqa: RUF012 (of this test)

    def run_round(self, jobs: Sequence[Job], *rest: Any, **more: Any) -> list[Reply]:
        replies = []
        for job in sorted(jobs, key=lambda job: -job.client):
            replies += super().run_round([job], *rest, **more)
            self.order.append(job.client)
        return replies[::-1]


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    list(ENGINES)
    monkeypatch.setitem(ENGINES._entries, "backwards", Backwards)
    yield "backwards"
    Backwards.order.clear()


def test_an_engine_by_name_does_the_clients_work(engine: str) -> None:
    experiment = Experiment.build(resolve(build_config({**SMALL, "engine": engine})))
    federation = experiment.federation()
    state, _ = federation.run_round(federation.start())
    assert Backwards.order == [1, 0]
    plain = Experiment.build(experiment.config.model_copy(update={"engine": "local"}), like=experiment).federation()
    assert plain.run_round(plain.start())[0].shared.sha256() == state.shared.sha256()


def test_unknown_names_and_engines_that_cannot_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"unknown engine 'rai'[.] Did you mean 'ray'[?] Known: local, ray"):
        check_engine(RunConfig(engine="rai"))
    bare = type("Bare", (Engine,), {"run_round": lambda *_: []})
    monkeypatch.setitem(ENGINES._entries, "bare", bare)
    with pytest.raises(ConfigError, match="engine 'bare' cannot be made: its class needs for_stage or for_run"):
        check_engine(RunConfig(engine="bare"))
    with pytest.raises(ConfigError, match="--actors goes with --engine ray, and the engine is 'local'"):
        check_engine(RunConfig(actors=2))


def test_a_worker_is_all_that_an_engine_of_a_stage_needs() -> None:
    worker: Worker = lambda jobs: []  # noqa: E731
    assert LocalEngine.for_stage(worker, RunConfig(client_batch=3)).client_batch == 3
    assert LocalEngine.for_run(lambda: None, RunConfig()) is None  # type: ignore[arg-type,return-value]
