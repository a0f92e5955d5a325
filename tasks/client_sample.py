"""A task with some of its clients: validation curves of a federation of thousands look at a fixed sample of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import overload

from promptfed.seeding import numpy_stream
from promptfed.types import ClientData, FederatedTask


class ChosenClients(Sequence[ClientData]):
    """The clients at some places of a sequence, whose data are made on access."""

    def __init__(self, clients: Sequence[ClientData], places: Sequence[int]) -> None:
        self.clients, self.places = clients, places

    def __len__(self) -> int:
        return len(self.places)

    @overload
    def __getitem__(self, index: int) -> ClientData: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[ClientData, ...]: ...

    def __getitem__(self, index: int | slice) -> ClientData | tuple[ClientData, ...]:
        chosen = self.places[index]
        return self.clients[chosen] if isinstance(chosen, int) else tuple(self.clients[place] for place in chosen)


def with_sampled_clients(task: FederatedTask, most: int, seed: int, purpose: str) -> FederatedTask:
    """Return ``task`` with at most so many clients, drawn by the stream (seed, purpose); itself if it has no more."""
    count = len(task.clients)
    if count <= most:
        return task
    places = sorted(numpy_stream(seed, purpose).choice(count, most, replace=False).tolist())
    return replace(task, clients=ChosenClients(task.clients, places))
