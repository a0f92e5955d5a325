"""A black box for pictures that can be worked out on paper, and whole federations of black-box methods."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import pytest
import torch
from PIL import Image
from torch import Tensor

from promptfed.aggregators.base import build_aggregator
from promptfed.blackbox.oracles.base import LocalBackend
from promptfed.blackbox.oracles.oracle import Oracle
from promptfed.blackbox.oracles.query import ScoreQuery
from promptfed.engines.local import LocalEngine
from promptfed.engines.worker import ClientWorker
from promptfed.examples.base import ImageItem, Item
from promptfed.federation import Federation
from promptfed.method import Method
from promptfed.prompt_template import PromptTemplate
from promptfed.setup import Setup
from promptfed.types import ClientData, FederatedTask, FederationState, Split


@dataclass(frozen=True)
class Grey(ImageItem):
    """A picture whose left half is ``left`` and right half ``right`` bright, of 255."""

    left: int
    right: int

    @property
    def name(self) -> str:
        return f"grey {self.left} {self.right}"

    def content_id(self) -> str:
        return hashlib.sha256(self.name.encode()).hexdigest()

    def load(self) -> Image.Image:
        image = Image.new("RGB", (8, 8), (self.left,) * 3)
        image.paste((self.right,) * 3, (4, 0, 8, 8))
        return image


class BrightBackend(LocalBackend):
    """Brightness: the mean of all pixels after the pattern was added, in -1 .. 1. Scores are (-4, 4) times it for
    (cold, hot). A text prompt is taken and changes nothing."""

    name = "bright"
    abilities = frozenset({"text prompts", "pixel prompts"})
    pixel_shape = (3, 8, 8)
    rows = 8

    def __init__(self) -> None:
        self.form = PromptTemplate(prompts=("a photo of a", ""))
        self.fingerprint = hashlib.sha256(b"bright").hexdigest()
        self.asked: list[ScoreQuery] = []

    def pixels(self, items: Sequence[Item]) -> Tensor:
        return (
            torch.stack([torch.tensor([item.left, item.right]) / 127.5 - 1 for item in items])[:, None, None]
            .repeat_interleave(4, -1)
            .expand(-1, 3, 8, -1)
            .clone()
        )

    def scores(self, queries: Sequence[ScoreQuery]) -> Tensor:
        self.asked += queries
        rows = []
        for query in queries:
            pixels = self.pixels([query.item])[0]
            shown = pixels if query.prompt.pixels is None else pixels + query.prompt.pixels
            bright = 4 * shown.mean().item()
            rows.append([{"cold": -bright, "hot": bright}.get(name, 0.0) for name in query.classes])
        return torch.tensor(rows)


def greys(seed: int, labels: Sequence[int]) -> Split:
    """Dark pictures: hot ones are a little brighter, but not bright."""
    draw = torch.Generator().manual_seed(seed)
    base = torch.randint(0, 40, (len(labels), 2), generator=draw).tolist()
    items = tuple(
        Grey(60 + 40 * label + left, 60 + 40 * label + right) for label, (left, right) in zip(labels, base, strict=True)
    )
    return Split(items, torch.tensor(list(labels)))


@pytest.fixture
def bright() -> BrightBackend:
    return BrightBackend()


@pytest.fixture
def picture_task(bright: BrightBackend) -> FederatedTask:
    """Two clients with eight training pictures each."""
    clients = [
        ClientData(
            k,
            f"client {k}",
            (0, 1),
            greys(10 * k, [0, 1] * 4),
            greys(10 * k + 1, [0, 1]),
            greys(10 * k + 2, [0, 1] * 3),
        )
        for k in range(2)
    ]
    empty = Split((), torch.zeros(0, dtype=torch.int64))
    return FederatedTask(
        "toy", ("cold", "hot"), (), tuple(clients), greys(99, [0, 1] * 4), empty, ("",), form=bright.form
    )


@pytest.fixture
def bright_setup(black_setup: Setup, bright: BrightBackend, picture_task: FederatedTask) -> Setup:
    return replace(black_setup, model=Oracle(bright)).agreeing(domains=picture_task.domains)


@pytest.fixture
def federate() -> Callable[..., FederationState]:
    """``federate(method, task, rounds=2, dropout=0.5, clients=[0], participation=1.0)``: the state after the rounds."""

    def run(
        method: Method,
        task: FederatedTask,
        rounds: int = 2,
        dropout: float = 0.0,
        clients: Sequence[int] | None = None,
        participation: float = 1.0,
    ) -> FederationState:
        chosen = [data.client for data in task.clients] if clients is None else clients
        engine = LocalEngine(ClientWorker(method, task, dropout))
        federation = Federation(method, build_aggregator("mean", {}), engine, chosen, participation)
        state = federation.start()
        for _ in range(rounds):
            state, _ = federation.run_round(state)
        return state

    return run
