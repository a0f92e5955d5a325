"""The task ``federated-search``: which of several private corpora answers a request."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
import torch
from pydantic import Field, field_validator, model_validator

from promptfed.config import RunConfig, validate
from promptfed.errors import DataError
from promptfed.examples.base import GradedText
from promptfed.prompt_template import PromptTemplate, check_labels
from promptfed.retrieval.collection import Collection, Request
from promptfed.retrieval.figures import trivial_note
from promptfed.seeding import numpy_stream
from promptfed.tasks.base import TASKS, Task, TaskConfig, check_clients
from promptfed.tasks.sources.retrieval import BUNDLED, load_collection
from promptfed.types import NO_EXAMPLES, ClientData, FederatedTask, Split

PROMPTS = ("", "Who can answer this?", "Somebody asks:")


class FoldsConfig(TaskConfig):
    """Which requests are tested, and which choices are made with."""

    folds: int = Field(5, ge=2, le=100, description="parts that the requests are cut into, one of which is the test")
    fold: int = Field(0, ge=0, description="the part that is tested, from 0")
    val_fraction: float = Field(0.1, gt=0, lt=1, description="share of the other requests that choices are made with")

    @model_validator(mode="after")
    def _is_a_fold(self) -> Self:
        if self.fold >= self.folds:
            raise ValueError(f"fold {self.fold} is none of 0 to {self.folds - 1}: task.folds says how many there are")
        return self


class FederatedSearchConfig(FoldsConfig):
    """Which requests are tested, and how many are judged."""

    judged: int | None = Field(None, ge=1, description="requests that each engine has judged; null: all in training")
    descriptions: dict[str, str] = Field(default_factory=dict, description="engine -> what its owner says of it")
    prompts: tuple[str, ...] | None = Field(None, min_length=1, description="hand-written ones, for zero-shot")

    @field_validator("descriptions", mode="before")
    @classmethod
    def _have_names(cls, values: dict[str, str]) -> dict[str, str]:
        return {str(name): text for name, text in values.items()} if isinstance(values, dict) else values


@dataclass(frozen=True)
class Dealt:
    """Numbers of a collection's requests by use. ``train`` has those that each engine has judged."""

    train: tuple[tuple[int, ...], ...]
    val: tuple[int, ...]
    test: tuple[int, ...]


def deal(collection: Collection, options: FoldsConfig, seed: int, judged: int | None = None) -> Dealt:
    """Deal out requests; every fold has its share of those that each engine's users asked.

    Args:
        collection: The requests.
        options: The folds.
        seed: Of the draws.
        judged: Training requests that each engine has judged; None: all.

    Raises:
        DataError: There are too few.
    """
    engines, folds = len(collection.corpora), options.folds
    fold_of = np.zeros(len(collection.requests), dtype=int)
    began = 0
    for engine in range(engines):
        held = [k for k, request in enumerate(collection.requests) if request.origin == engine]
        shuffled = numpy_stream(seed, "search folds", engine).permutation(len(held))
        for place, k in enumerate(shuffled):
            fold_of[held[int(k)]] = (began + place) % folds
        began += len(held)
    test = [k for k in range(len(fold_of)) if fold_of[k] == options.fold]
    val, train = [], []
    for engine in range(engines):
        rest = [k for k, r in enumerate(collection.requests) if r.origin == engine and fold_of[k] != options.fold]
        order = [rest[int(k)] for k in numpy_stream(seed, "search validation", engine).permutation(len(rest))]
        count = min(max(1, round(options.val_fraction * len(rest))), len(rest) - 1)
        val += order[: max(0, count)]
        train += order[max(0, count) :]
    val, train = sorted(val), sorted(train)
    if not test or not train:
        raise DataError(
            f"data '{collection.name}' has {len(fold_of)} requests, too few for {folds} folds: lower task.folds"
        )
    by_engine = []
    for engine in range(engines):
        places = numpy_stream(seed, "search judged", engine).permutation(len(train))[:judged]
        by_engine.append(tuple(sorted(train[int(k)] for k in places)))
    return Dealt(tuple(by_engine), tuple(val), tuple(test))


CHARACTERS = 400
"""Of a document, that the encoder reads."""


def split_of(requests: Sequence[Request], engine: int | None = None, documents: Sequence[str] = ()) -> Split:
    """Return requests as examples, whose label is the best engine.

    Args:
        requests: The requests.
        engine: The engine whose grades are known alone; None: all are.
        documents: That engine's own; an example has those that answer it.
    """
    items = []
    for number, request in enumerate(requests):
        grades = request.grades
        if engine is not None:
            grades = tuple(grade if k == engine else math.nan for k, grade in enumerate(grades))
        relevance = request.relevance.get(engine, {}) if engine is not None and documents else {}
        answers = sorted((k for k, grade in relevance.items() if grade > 0), key=lambda k: (-relevance[k], k))
        passages = tuple(documents[k][:CHARACTERS] for k in answers)
        items.append(GradedText(request.text, f"request {number + 1}", grades, passages))
    labels = [int(np.argmax(request.grades)) if engine is None else engine for request in requests]
    return Split(tuple(items), torch.tensor(labels, dtype=torch.int64))


def build(config: RunConfig) -> FederatedTask:
    """Make each engine a client, which knows its own grades of the training requests and no others.

    Validation and test requests are judged on all engines: they judge a selection, and no method trains on them. A
    client's own are those that its users asked.

    Raises:
        ConfigError: Options are not allowed.
        DataError: Data are missing or do not fit.
    """
    options = validate(FederatedSearchConfig, config.task_options, "task option")
    collection = load_collection(config.data)
    return task_of(config, options, collection)


def task_of(config: RunConfig, options: FederatedSearchConfig, collection: Collection) -> FederatedTask:
    """As ``build``, of a collection that is loaded."""
    engines = tuple(corpus.name for corpus in collection.corpora)
    check_clients(config.clients, len(engines), "engines")
    described = {corpus.name: corpus.description or corpus.name for corpus in collection.corpora}
    changes = {"descriptions": {**described, **options.descriptions}, "prompts": options.prompts or PROMPTS}
    form = validate(PromptTemplate, changes, "task option")
    check_labels(form, engines)
    parts = deal(collection, options, config.partition_seed, options.judged)

    def requests(numbers: Sequence[int], origin: int | None = None) -> list[Request]:
        chosen = [collection.requests[k] for k in numbers]
        return [request for request in chosen if origin is None or request.origin == origin]

    judged = requests(sorted({k for numbers in parts.train for k in numbers}))
    told = [form.description(name) for name in engines]
    trivial = trivial_note(judged, requests(parts.test), told, config.partition_seed)
    clients = tuple(
        ClientData(
            client=k,
            name=name,
            classes=(k,),
            train=split_of(requests(parts.train[k]), k, collection.corpora[k].documents),
            val=split_of(requests(parts.val, k)),
            test=split_of(requests(parts.test, k)),
            domain=name,
        )
        for k, name in enumerate(engines)
    )
    return FederatedTask(
        name=config.task,
        base_classes=engines,
        new_classes=(),
        clients=clients,
        base_test=split_of(requests(parts.test)),
        new_test=NO_EXAMPLES,
        templates=form.prompts,
        notes=(*collection.notes, trivial),
        form=form,
        partition="domain",
    )


@TASKS.register("federated-search")
class FederatedSearch(Task):
    """Choose which private corpora to ask: each engine learns from its own judged requests when it is of use."""

    Config = FederatedSearchConfig
    partitions: ClassVar[tuple[str, ...]] = ("domain",)
    data: ClassVar[str] = BUNDLED
    method: ClassVar[str] = "descriptor"
    methods: ClassVar[tuple[str, ...]] = ("descriptor", "query_prompt", "zero_shot")
    rounds: ClassVar[int] = 1
    backbone: ClassVar[str] = "lm:minilm"
    baselines: ClassVar[tuple[str, ...]] = ("zero_shot",)
    measures: ClassVar[tuple[str, ...]] = ("ndcg:10", "np:1", "np:3")
    selection: ClassVar[str] = "ndcg:10"
    build = staticmethod(build)
