"""All clients' data in one place: what no federation may do, and what its result is measured against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from promptfed.types import FederatedTask, Split


def centralize(task: FederatedTask) -> FederatedTask:
    """``task`` with everybody's training and validation examples at its first client; tests stay with their owners."""
    first, *others = task.clients
    held = replace(
        first,
        train=joined([data.train for data in task.clients]),
        val=joined([data.val for data in task.clients]),
    )
    return replace(task, clients=(held, *others))


def joined(splits: Sequence[Split]) -> Split:
    """One split after the other."""
    items = tuple(item for split in splits for item in split.items)
    return Split(items, torch.cat([split.labels for split in splits]))
