"""A toy federation that has ended: what personalisation starts from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from promptfed.aggregators.mean import Mean
from promptfed.build_method import build_method
from promptfed.config import RunConfig
from promptfed.engines.local import LocalEngine
from promptfed.engines.worker import ClientWorker
from promptfed.export.finished import FinishedRun
from promptfed.federation import Federation
from promptfed.method import METHODS
from promptfed.runs.directory import RunDirectory
from promptfed.setup import Setup
from promptfed.types import FederatedTask


@pytest.fixture
def finish(setup: Setup, toy_task: FederatedTask, tmp_path: Path) -> Callable[..., FinishedRun]:
    """``finish("promptfl", rounds=2, client_batch=1, n_ctx=3)``: the run of a method on the toy task.

    ``only`` takes the options as they are; else a few that make runs quick are added.
    """

    def make(
        name: str = "promptfl", rounds: int = 2, client_batch: int = 1, only: bool = False, **options: Any
    ) -> FinishedRun:
        known = METHODS[name].Config.model_fields
        quick = {key: value for key, value in {"n_ctx": 3, "lr": 0.1, "batch_size": 3}.items() if key in known}
        chosen = options if only else {**quick, **options}
        config = RunConfig(method=name, method_options=chosen, rounds=3, shots=3, client_batch=client_batch)
        run = RunDirectory.create(tmp_path / f"{name}-{rounds}-{client_batch}", config, label="toy")
        method = build_method(name, chosen, setup)
        engine = LocalEngine(ClientWorker(method, toy_task))
        federation = Federation(method, Mean(Mean.Config()), engine, [data.client for data in toy_task.clients])
        state = federation.start()
        for _ in range(rounds):
            state, _ = federation.run_round(state)
        names = {data.client: data.name for data in toy_task.clients}
        return FinishedRun(run, method, federation.server, state, names)

    return make
