"""The task ``recommend``: what somebody chooses next, from what they chose before and from texts of the items."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from pydantic import Field

from promptfed.config import RunConfig, validate
from promptfed.errors import DataError
from promptfed.examples.base import TextItem
from promptfed.prompt_template import PromptTemplate, check_labels
from promptfed.retrieval.recommending import trivial_note
from promptfed.tasks.base import TASKS, Task, TaskConfig, check_clients
from promptfed.tasks.sources.class_names import check_names
from promptfed.tasks.sources.interactions import SHOPS, Interactions, load_interactions
from promptfed.types import NO_EXAMPLES, ClientData, FederatedTask, Split

READ = 5
"""Items of a history that an encoder reads as one text, for zero-shot."""


@dataclass(frozen=True)
class HistoryItem(TextItem):
    """What somebody chose before: names of items, the last one last; ``text`` are the last few of them."""

    history: tuple[str, ...] = field(default=())

    def content_id(self) -> str:
        return hashlib.sha256("\x00".join(("history", *self.history)).encode()).hexdigest()


class RecommendConfig(TaskConfig):
    """Who is a client, and which items are new."""

    cold_fraction: float = Field(0.1, ge=0, lt=1, description="share of the items that no client trains on: the last")
    prompts: tuple[str, ...] | None = Field(None, min_length=1, description="hand-written ones, for zero-shot")


@dataclass(frozen=True)
class Warm:
    """Items in the order of their first choice, and where the cold ones begin."""

    order: tuple[int, ...]
    base: int


def warm_items(data: Interactions, cold: float) -> Warm:
    """Return the items that are chosen at all, and how many of them are no cold ones.

    Raises:
        DataError: There are too few.
    """
    first: dict[int, int] = {}
    for chosen in data.users:
        for place, item in enumerate(chosen):
            first[item] = min(first.get(item, place), place)
    order = sorted(first, key=lambda item: (first[item], item))
    base = len(order) - int(cold * len(order))
    if base < 2:
        raise DataError(f"data '{data.name}' has {len(order)} items that somebody chose: too few to recommend")
    return Warm(tuple(order), base)


def build(config: RunConfig) -> FederatedTask:
    """Make each shop or user a client: the last choice of each user is a test, the one before it is for validation.

    Raises:
        ConfigError: Options are not allowed.
        DataError: Data are missing or do not fit.
    """
    options = validate(RecommendConfig, config.task_options, "task option")
    data = load_interactions(config.data, config.partition_seed)
    return task_of(config, options, data)


def task_of(config: RunConfig, options: RecommendConfig, data: Interactions) -> FederatedTask:
    """As ``build``, of interactions that are loaded."""
    warm = warm_items(data, options.cold_fraction)
    label = {item: k for k, item in enumerate(warm.order)}
    names = tuple(data.items[item] for item in warm.order)
    check_names(names, "item", data.name)
    described = {data.items[item]: data.texts[item] for item in warm.order}
    form = PromptTemplate(descriptions=described, prompts=options.prompts or ("", "Somebody likes"))
    check_labels(form, names)
    by_user = config.partition == "user"
    owners = [f"user {number + 1}" for number in range(len(data.users))] if by_user else data.homes
    homes = dict(zip(owners, data.homes, strict=True))

    def example(history: Sequence[int], number: int) -> HistoryItem:
        chosen = tuple(names[k] for k in history)
        text = "; ".join(described[name] for name in chosen[-READ:])
        return HistoryItem(text, f"user {number + 1}", chosen)

    parts: dict[str, dict[str, list[tuple[HistoryItem, int]]]] = {
        home: {"train": [], "val": [], "test": []} for home in homes
    }
    new: list[tuple[HistoryItem, int]] = []
    sequences, tests = [], []
    for number, (chosen, home) in enumerate(zip(data.users, owners, strict=True)):
        labels = [label[item] for item in chosen]
        for place, item in enumerate(labels):
            known = [k for k in labels[:place] if k < warm.base]
            if item >= warm.base and known:
                new.append((example(known, number), item - warm.base))
        kept = [k for k in labels if k < warm.base]
        uses = {len(kept) - 1: "test", len(kept) - 2: "val"} if len(kept) >= 4 else {}
        for place in range(1, len(kept)):
            parts[home][uses.get(place, "train")].append((example(kept[:place], number), kept[place]))
        if uses:
            sequences.append(kept[:-1])
            tests.append((kept[:-1], kept[-1]))
        else:
            sequences.append(kept)
    if not tests:
        raise DataError(f"data '{data.name}' has no user with four choices: nothing can be tested")
    notes = [trivial_note(sequences, tests, warm.base)]
    idle = {home for home in homes if by_user and not parts[home]["train"]}
    if idle:
        notes.append(f"{len(idle)} of {len(homes)} users have no choice to train on: they are no clients")
    active = [home for home in homes if home not in idle]
    check_clients(config.clients, len(active))
    clients = []
    for k, home in enumerate(active):
        train, val, test = (_split(parts[home][use]) for use in ("train", "val", "test"))
        classes = tuple(sorted(set(train.labels.tolist())))
        clients.append(ClientData(k, home, classes, train, val, test, domain=homes[home]))
    return FederatedTask(
        name=config.task,
        base_classes=names[: warm.base],
        new_classes=names[warm.base :] if new else (),
        clients=tuple(clients),
        base_test=_split([pair for home in homes for pair in parts[home]["test"]]),
        new_test=_split(new) if new else NO_EXAMPLES,
        templates=form.prompts,
        notes=tuple(notes),
        form=form,
        partition="user" if by_user else "domain",
    )


def _split(pairs: Sequence[tuple[HistoryItem, int]]) -> Split:
    return Split(tuple(item for item, _ in pairs), torch.tensor([k for _, k in pairs], dtype=torch.int64))


@TASKS.register("recommend")
class Recommend(Task):
    """Recommend the next item from its text: shops without common users learn one prompt over frozen item vectors."""

    Config = RecommendConfig
    partitions: ClassVar[tuple[str, ...]] = ("domain", "user")
    data: ClassVar[str] = SHOPS
    method: ClassVar[str] = "content_prompt"
    methods: ClassVar[tuple[str, ...]] = ("content_prompt", "zero_shot")
    rounds: ClassVar[int] = 6
    backbone: ClassVar[str] = "lm:minilm"
    measures: ClassVar[tuple[str, ...]] = ("recall:10", "ndcg:10")
    selection: ClassVar[str] = "recall:10"
    build = staticmethod(build)
