"""A black box that can be worked out on paper, and a text task on it: what the tests of oracles and methods share."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import platformdirs
import pytest
import torch
from torch import Tensor

from promptfed.agreement import Agreement
from promptfed.blackbox.oracles.base import LocalBackend, SoftSpace
from promptfed.blackbox.oracles.oracle import Oracle
from promptfed.blackbox.oracles.query import OracleAnswer, ProposalQuery, Query, ScoreQuery, TextQuery
from promptfed.examples.base import TextItem
from promptfed.prompt_template import PromptTemplate
from promptfed.setup import Setup
from promptfed.types import ClientData, FederatedTask, Split

CLASSES = ("cold", "hot")
WORDS = ("ice", "snow", "fire", "lava", "the", "mild")
HEAT = {"ice": -1.0, "snow": -0.5, "fire": 1.0, "lava": 0.5}


class ToyBackend(LocalBackend):
    """Heat of a text: the sum over its words (``HEAT``), plus that of the prompt's words, plus the mean of the soft
    prompt's entries. Scores are (-heat, heat) for (cold, hot)."""

    name = "toy"
    abilities = frozenset({"soft prompts", "text prompts", "generation", "token proposals"})
    rows = 8

    def __init__(self) -> None:
        self.form = PromptTemplate(template="{{ prompt }} {{ text }}", prompts=("", "fire", "ice"))
        self.fingerprint = hashlib.sha256(b"toy").hexdigest()
        self.soft = SoftSpace(4, 0.5, torch.eye(4))
        self.batches = 0
        self.asked: list[Query] = []

    def scores(self, queries: Sequence[ScoreQuery]) -> Tensor:
        self.batches += 1
        self.asked += queries
        rows = []
        for query in queries:
            heat = warmth(query.prompt.text) + warmth(query.item.text)
            if query.prompt.soft is not None:
                heat += query.prompt.soft.double().mean().item()
            rows.append([{"cold": -heat, "hot": heat}[name] for name in query.classes])
        return torch.tensor(rows)

    def other(self, query: Query) -> OracleAnswer:
        self.asked.append(query)
        if isinstance(query, TextQuery):
            return OracleAnswer(text=" fire lava", prompt_tokens=3, completion_tokens=2)
        assert isinstance(query, ProposalQuery)
        return OracleAnswer(tokens=WORDS[: query.count])


def warmth(text: str) -> float:
    return sum(HEAT.get(word, 0.0) for word in text.split())


@pytest.fixture
def backend() -> ToyBackend:
    return ToyBackend()


@pytest.fixture
def oracle(backend: ToyBackend) -> Oracle:
    return Oracle(backend)


@pytest.fixture
def text_split() -> Callable[..., Split]:
    """``text_split("hot: fire the", "cold: ice")``: labelled texts."""

    def make(*lines: str) -> Split:
        pairs = [line.split(": ", 1) for line in lines]
        items = tuple(TextItem(text, f"line {k}") for k, (_, text) in enumerate(pairs))
        return Split(items, torch.tensor([CLASSES.index(label) for label, _ in pairs]))

    return make


@pytest.fixture
def text_task(text_split: Callable[..., Split], backend: ToyBackend) -> FederatedTask:
    """Three clients with four training texts each: the texts alone say too cold by 0.7, so that a warm prompt helps."""
    clients = []
    for client in range(3):
        train = text_split(
            "hot: the mild a", f"hot: lava ice b{client}", f"cold: ice snow c{client}", "cold: ice ice d"
        )
        val = text_split(f"hot: mild e{client}", "cold: ice snow f")
        test = text_split(f"hot: lava ice g{client}", "cold: snow ice ice h")
        clients.append(ClientData(client, f"client {client}", (0, 1), train, val, test))
    base = text_split("hot: the i", "hot: mild lava ice j", "cold: ice k", "cold: snow snow ice l")
    new = Split((), torch.zeros(0, dtype=torch.int64))
    form = backend.form
    return FederatedTask("toy", CLASSES, (), tuple(clients), base, new, form.prompts, form=form)


@pytest.fixture
def black_setup(oracle: Oracle, text_task: FederatedTask) -> Setup:
    """What black-box methods are built with."""
    task = text_task
    agreed = Agreement(classes=task.base_classes, templates=task.templates, rounds=3, seed=0, domains=task.domains)
    return Setup(oracle, agreed)


@pytest.fixture(scope="session")
def gemma_once(own_cache: None) -> None:
    """Gemma, whose conversion takes minutes, is taken from the user's cache and left there; nothing else is."""
    models = Path(os.environ["PROMPTFED_CACHE"]) / "models"
    if not models.exists():
        kept = Path(platformdirs.user_cache_dir("promptfed")) / "models"
        kept.mkdir(parents=True, exist_ok=True)
        models.symlink_to(kept)
