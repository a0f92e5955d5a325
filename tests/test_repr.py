"""What a public object shows of itself in a notebook or a debugger: what it is, not where in memory."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

from promptfed.aggregators.base import AGGREGATORS, build_aggregator
from promptfed.backbones.features import FeatureCache, FeatureStore
from promptfed.config import RunConfig
from promptfed.engines.local import LocalEngine
from promptfed.engines.worker import ClientWorker
from promptfed.experiment import Experiment
from promptfed.federation import Federation
from promptfed.measures.base import build_measure
from promptfed.method import METHODS
from promptfed.prompt_state import PromptState
from promptfed.registry import Registry
from promptfed.runs.directory import RunDirectory
from promptfed.tasks import TASKS
from promptfed.types import Broadcast, ClientPrompt, Update

CTX = PromptState({"ctx": torch.zeros(4, 8)})


def test_values_show_names_and_shapes() -> None:
    assert repr(CTX) == "PromptState(ctx (4, 8))"
    assert repr(Broadcast(3, CTX)) == "Broadcast(round=3, shared=PromptState(ctx (4, 8)))"
    assert "client=2, shared=PromptState(ctx (4, 8)), samples=16" in repr(Update(2, CTX, 16, 0.5, 0.75))
    assert "PromptState(ctx (4, 8))" in repr(ClientPrompt(CTX))


def test_a_config_shows_what_differs_from_the_defaults() -> None:
    assert repr(RunConfig()) == "RunConfig()"
    assert repr(RunConfig(method="kgcoop", rounds=3)) == "RunConfig(method='kgcoop', rounds=3)"


def test_registries_list_their_names() -> None:
    assert repr(Registry("thing")) == "<registry of things: not read yet>"
    assert "promptfl" in list(METHODS)
    assert re.match(r"<registry of methods: .*fedavg_bbt.*promptfl", repr(METHODS))
    assert "clip-fewshot" in list(TASKS)
    assert "clip-fewshot" in repr(TASKS)
    assert "krum" in list(AGGREGATORS)
    assert "krum" in repr(AGGREGATORS)


def test_parts_of_an_experiment_say_what_they_are(setup: Any, toy_task: Any, tmp_path: Path) -> None:
    method = METHODS["promptfl"](METHODS["promptfl"].Config(n_ctx=2), setup)
    aggregator = build_aggregator("mean", {})
    engine = LocalEngine(ClientWorker(method, toy_task))
    federation = Federation(method, aggregator, engine, clients=[0, 1, 2])
    cache = FeatureCache(tmp_path, 0)
    backbone = "<backbone toy: text 4, joint 3 dimensions, on cpu>"
    parts = {
        setup.backbone: backbone,
        FeatureStore(setup.backbone, cache): f"<features of {backbone}: 0 images and 0 texts in memory>",
        aggregator: "<aggregator Mean: AggregatorConfig(longest=None)>",
        engine: "<engine LocalEngine>",
        build_measure("top_k:3"): "<measure top-3: higher is better>",
        toy_task.base_test: "<split of 20 examples>",
        toy_task: "<task toy: 3 clients, 4 base and 2 new classes>",
        RunDirectory(tmp_path / "run", RunConfig()): f"<run directory '{tmp_path / 'run'}': promptfl on icons>",
    }
    assert {repr(part): shown for part, shown in parts.items()} == {shown: shown for shown in parts.values()}
    assert repr(method).startswith("<method PromptFL: PromptFLConfig(")
    assert "n_ctx=2" in repr(method)
    assert repr(federation).startswith("<federation of 3 clients: <method PromptFL")
    experiment = Experiment(RunConfig(), toy_task, setup)
    assert repr(experiment) == f"<experiment: promptfl with icons, {toy_task!r}, <dual encoder toy>>"


def test_no_class_of_the_public_api_shows_an_address() -> None:
    """``object.__repr__`` is nowhere: each class, or one above it, says something of its own."""
    import promptfed

    kinds = [kind for name in promptfed.__all__ if isinstance(kind := getattr(promptfed, name), type)]
    assert [kind.__name__ for kind in kinds if kind.__repr__ is object.__repr__] == []
