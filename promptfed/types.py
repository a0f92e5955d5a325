"""The values that pass between task, federation, engine, method and aggregator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from promptfed.prompts import PromptState
from promptfed.tasks.sources.base import ImageItem

NO_PROMPT = PromptState()
"""The empty state: what a method without a shared (or personal) part has in its place."""


@dataclass(frozen=True, eq=False)
class Split:
    """Labelled images: ``labels`` ``(n,)`` int64 index the class list that the split comes with."""

    items: tuple[ImageItem, ...]
    labels: Tensor

    def __len__(self) -> int:
        return len(self.items)


@dataclass(frozen=True, eq=False)
class ClientData:
    """What one client holds and nobody else sees. Labels index the task's base classes.

    ``classes`` lists, in rising order, the base classes of which the client has training images.
    """

    client: int
    name: str
    classes: tuple[int, ...]
    train: Split
    val: Split
    test: Split


@dataclass(frozen=True, eq=False)
class FederatedTask:
    """A task dealt out to clients. ``new_test`` labels index ``new_classes``, which no client ever saw."""

    name: str
    base_classes: tuple[str, ...]
    new_classes: tuple[str, ...]
    clients: tuple[ClientData, ...]
    base_test: Split
    new_test: Split
    templates: tuple[str, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Broadcast:
    """What the server sends to a client at the start of round ``round`` (from 1)."""

    round: int
    shared: PromptState


@dataclass(frozen=True)
class Job:
    """One client's work in one round; ``personal`` is read from and returned to that client's own store."""

    client: int
    broadcast: Broadcast
    personal: PromptState = field(default_factory=PromptState)


@dataclass(frozen=True)
class Update:
    """What a client sends back: its shared prompt, how many samples it stands for, its mean loss and accuracy."""

    client: int
    shared: PromptState
    samples: int
    loss: float
    accuracy: float


@dataclass(frozen=True)
class Reply:
    """What an engine returns for a job. ``seconds`` is wall time; calls count images and texts, not batches."""

    client: int
    round: int
    update: Update
    personal: PromptState
    seconds: float
    image_encoder_calls: int
    text_encoder_calls: int


@dataclass(frozen=True)
class Figures:
    """Test accuracies in 0..1. ``local_std`` is over clients; ``new`` and ``hm`` are None without new classes."""

    name: str
    local: float
    local_std: float
    base: float
    new: float | None
    hm: float | None


@dataclass(frozen=True)
class FederationState:
    """A federation after ``round`` finished rounds, as one value: a checkpoint is this and nothing else.

    ``pending`` holds the replies of the round that was under way when the run was interrupted, sorted by client.
    """

    round: int
    shared: PromptState
    server: PromptState = field(default_factory=PromptState)
    personal: Mapping[int, PromptState] = field(default_factory=dict)
    pending: tuple[Reply, ...] = ()
