"""Few labels: of all that clients train on, some examples keep their label and the rest is unlabelled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from pydantic import Field

from promptfed.errors import ConfigError
from promptfed.seeding import numpy_stream
from promptfed.tasks.base import TaskConfig
from promptfed.types import UNKNOWN_LABEL, ClientData, FederatedTask, Split


class FewLabelsConfig(TaskConfig):
    """The option of tasks whose clients may hold unlabelled examples."""

    labels: int | None = Field(
        None, ge=1, description="training examples of all clients that keep their label, in all; none: every one"
    )


def with_few_labels(task: FederatedTask, labels: int | None, seed: int) -> FederatedTask:
    """Return ``task`` with so many labels in all; validation and test examples keep theirs.

    Every client with training examples keeps one label. The others are drawn so that all classes have equally many as
    far as that goes, from whoever holds the class. A client's ``classes`` and its tests stay those of all that it
    holds: they are for evaluation.

    Args:
        task: Whose training examples all have labels.
        labels: How many keep them; None for all, which returns ``task`` itself.
        seed: That of the partition. More labels keep the ones that fewer would.

    Raises:
        ConfigError: Some client would have no label.
    """
    if labels is None:
        return task
    kept = _drawn([(data.name, data.train.labels.tolist()) for data in task.clients], labels, seed)
    clients = tuple(_split(data, rows) for data, rows in zip(task.clients, kept, strict=True))
    count, total = sum(map(len, kept)), sum(len(data.train) for data in task.clients)
    validation = sum(len(data.val) for data in task.clients)
    note = f"{count} of {total} training examples keep their label; {validation} validation examples have theirs too"
    return replace(task, clients=clients, notes=(*task.notes, note))


def _drawn(clients: Sequence[tuple[str, list[int]]], labels: int, seed: int) -> list[list[int]]:
    """Return the rows of each client, by name and labels, that keep their label; rows rise."""
    orders = [numpy_stream(seed, "few labels", name).permutation(len(own)).tolist() for name, own in clients]
    first = [(client, order[0]) for client, order in enumerate(orders) if order]
    if labels < len(first):
        raise ConfigError(
            f"task option 'labels' is {labels}, and each of {len(first)} clients needs one: give {len(first)} or more "
            "(--set task.labels), or use fewer --clients"
        )
    counts: dict[int, int] = {}
    rest: dict[int, list[tuple[int, int]]] = {}
    for client, row in first:
        label = clients[client][1][row]
        counts[label] = counts.get(label, 0) + 1
    for client, order in enumerate(orders):
        for row in order[1:]:
            rest.setdefault(clients[client][1][row], []).append((client, row))
    queues = {
        label: [places[i] for i in numpy_stream(seed, "few labels", "class", label).permutation(len(places))]
        for label, places in rest.items()
    }
    kept = list(first)
    while len(kept) < labels and (left := [label for label, queue in sorted(queues.items()) if queue]):
        label = min(left, key=lambda label: counts.get(label, 0))
        counts[label] = counts.get(label, 0) + 1
        kept.append(queues[label].pop(0))
    return [sorted(row for holder, row in kept if holder == client) for client in range(len(clients))]


def _split(data: ClientData, rows: list[int]) -> ClientData:
    """Return ``data`` in which the other training examples than ``rows`` have lost their label."""
    chosen = set(rows)
    others = [row for row in range(len(data.train)) if row not in chosen]
    items = data.train.items
    return replace(
        data,
        train=Split(tuple(items[row] for row in rows), data.train.labels[rows]),
        unlabelled=Split(tuple(items[row] for row in others), torch.full((len(others),), UNKNOWN_LABEL)),
        true_labels=data.train.labels[others],
    )
