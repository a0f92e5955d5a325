"""All clients' data in one place: no federation has that, and its result is the upper bound to compare with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from promptfed.types import FederatedTask, Split


def centralize(task: FederatedTask) -> FederatedTask:
    """Move all training, unlabelled and validation examples to the first client; tests stay with their owners."""
    first, *others = task.clients
    pooled = replace(
        first,
        train=joined([data.train for data in task.clients]),
        val=joined([data.val for data in task.clients]),
        unlabelled=joined([data.unlabelled for data in task.clients]),
        true_labels=torch.cat([data.true_labels for data in task.clients]),
    )
    return replace(task, clients=(pooled, *others))


def joined(splits: Sequence[Split]) -> Split:
    """Concatenate splits."""
    items = tuple(item for split in splits for item in split.items)
    return Split(items, torch.cat([split.labels for split in splits]))
