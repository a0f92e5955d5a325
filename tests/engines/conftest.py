"""A small federation whose clients misbehave on demand, and every engine to run it on.

A stage names the misbehaviour: ``"nan:1"`` has client 1 send NaN. So one engine, with its processes, serves all tests.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from promptfed.aggregators.mean import Mean
from promptfed.agreement import Agreement
from promptfed.backbones.dual_encoder import DualEncoder
from promptfed.backbones.features import FeatureCache, FeatureStore
from promptfed.engines.base import Engine
from promptfed.engines.local import LocalEngine
from promptfed.engines.worker import ClientWorker
from promptfed.errors import BudgetExhausted, TrainingError
from promptfed.federation import Federation
from promptfed.methods.promptfl import PromptFL, PromptFLConfig
from promptfed.processors.pipeline import NO_PROCESSORS, Pipeline
from promptfed.prompt_state import PromptState
from promptfed.setup import Setup
from promptfed.types import FederatedTask


def limit(stage: str) -> float | None:
    """A client's seconds. None where it would be met by chance, on a machine with much to do."""
    return 2.0 if stage.startswith("hangs") else None


def pipeline(stage: str) -> Pipeline:
    """The processors of a stage that begins with "processed"."""
    clip, quantize = {"clip": {"max_norm": 0.05}}, {"quantize": {"format": "int8", "error_feedback": True}}
    return Pipeline.build([clip, quantize], seed=0) if stage.startswith("processed") else NO_PROCESSORS


class Moody(PromptFL):
    """PromptFL whose clients keep their own number and the count of their rounds, and misbehave as they are told."""

    def __init__(self, setup: Setup, mood: str, whose: set[int]) -> None:
        super().__init__(PromptFLConfig(local_epochs=2, batch_size=2), setup)
        self.mood, self.whose = mood, whose

    def init_personal(self, client):
        return PromptState({"owner": torch.tensor([client]), "rounds": torch.tensor([0])})

    def train_many(self, jobs):
        for _, data, _ in jobs:
            if data.client in self.whose:
                self.misbehave(data.client)
        return super().train_many(jobs)

    def misbehave(self, client):
        if self.mood == "raises":
            raise TrainingError(f"client {client} stumbled")
        if self.mood == "bug":
            raise KeyError("ctx")
        if self.mood == "hangs":
            time.sleep(600)
        if self.mood == "slow":
            time.sleep(0.7)
        if self.mood == "spent":
            raise BudgetExhausted("nothing is left")
        if self.mood == "dies":
            os._exit(1)

    def split_update(self, trained, broadcast, data, personal):
        if personal["owner"].item() != data.client:
            raise TrainingError(f"client {data.client} was given the prompt of {personal['owner'].item()}")
        sent, _ = super().split_update(trained, broadcast, data, personal)
        if data.client in self.whose:
            sent = {
                "nan": sent * float("nan"),
                "shape": PromptState({"ctx": torch.zeros(2, 2)}),
                "names": PromptState({"cxt": sent["ctx"]}),
            }.get(self.mood, sent)
        return sent, PromptState({**personal, "rounds": personal["rounds"] + 1})


@dataclass(frozen=True)
class ToyPlace:
    """What a worker needs, made where the work is done."""

    backbone: type
    task: FederatedTask
    setups: list[Setup] = field(default_factory=list)

    def __call__(self) -> ToyPlace:
        return self

    def setup(self) -> Setup:
        if not self.setups:
            backbone, task = self.backbone(), self.task
            features = FeatureStore(backbone, FeatureCache(Path("none"), limit_bytes=0))
            agreed = Agreement(classes=task.base_classes, templates=task.templates, rounds=3, seed=0)
            self.setups.append(Setup(DualEncoder(features), agreed))
        return self.setups[0]

    def method(self, stage: str) -> Moody:
        mood, _, whose = stage.partition(":")
        return Moody(self.setup(), mood, {int(client) for client in whose.split(",") if client})

    def worker(self, stage: str) -> ClientWorker:
        return ClientWorker(self.method(stage), self.task, processors=pipeline(stage))

    def verify_frozen(self) -> None:
        self.setup().verify_frozen()


@pytest.fixture
def place(backbone, toy_task) -> ToyPlace:
    return ToyPlace(type(backbone), toy_task)


# ------------------------------------------------------------------------------------------------- the engines
# An engine that is to keep the contract needs a function here, from a stage and a fixture lookup to the engine.


def local(place: ToyPlace, stage: str, find: Callable[[str], Any]) -> Engine:
    return LocalEngine(place.worker(stage), client_seconds=limit(stage))


def local_batched(place: ToyPlace, stage: str, find: Callable[[str], Any]) -> Engine:
    return LocalEngine(place.worker(stage), client_batch=2, client_seconds=limit(stage))


def ray(place: ToyPlace, stage: str, find: Callable[[str], Any]) -> Engine:
    engine = find("ray_engine")(place)
    engine.client_seconds = limit(stage)
    return engine


def flower(place: ToyPlace, stage: str, find: Callable[[str], Any]) -> Engine:
    """Sites in this process; the personal prompts that the tests look at are those that the sites keep."""
    grid, folder = find("fake_grid").FakeGrid(threaded=True), find("tmp_path") / f"sites-{time.monotonic_ns()}"
    path = Path(__file__).with_name("toy_sites.py")
    spec = importlib.util.spec_from_file_location("toy_sites", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    engine: Engine = module.SeenThrough(place, folder, grid)
    engine.client_seconds = limit(stage)
    return engine


ENGINES = {"local": local, "local_batched": local_batched, "ray": ray, "flower": flower}


@pytest.fixture(params=[pytest.param(name, marks=pytest.mark.slow) if name == "ray" else name for name in ENGINES])
def federation(request, place) -> Callable[..., Federation]:
    """``federation(stage)``: one on the engine of the test, whose clients misbehave as ``stage`` says."""

    def make(stage: str = "well") -> Federation:
        engine = ENGINES[request.param](place, stage, request.getfixturevalue)
        return Federation(
            place.method(stage),
            Mean(Mean.Config()),
            engine,
            range(3),
            quorum=0.5,
            stage=stage,
            processors=pipeline(stage),
        )

    return make


@pytest.fixture(scope="module")
def ray_session() -> Iterator[Any]:
    """Ray, begun once for each file: actors that outlived it would keep the machine's cores from other tests."""
    from promptfed.engines import ray_runtime

    assert ray_runtime.begin(None)
    import ray

    yield ray
    ray.shutdown()


@pytest.fixture(scope="module")
def ray_engine(ray_session) -> Iterator[Callable[[ToyPlace], Engine]]:
    """One engine of two actors for all tests, made for the first of them."""
    from promptfed.engines.ray import RayEngine

    made: list[RayEngine] = []

    def engine(place: ToyPlace) -> RayEngine:
        if not made:
            for kind in (ToyPlace, place.backbone):  # Ray's workers cannot import test modules
                ray_session.cloudpickle.register_pickle_by_value(sys.modules[kind.__module__])
            made.append(RayEngine(replace(place, setups=[]), actors=2))
        return made[0]

    yield engine
    for one in made:
        one.close()
