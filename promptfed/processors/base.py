"""What every outgoing processor looks like to the clients' work and to the server."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from pydantic import BaseModel, ConfigDict

from promptfed.errors import ProcessorError
from promptfed.prompt_state import PromptState
from promptfed.registry import Registry
from promptfed.seeding import torch_stream
from promptfed.types import Broadcast, Update


class ProcessorConfig(BaseModel):
    """Base of every processor's options: frozen, and unknown names are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


@dataclass(frozen=True)
class Streams:
    """Random streams of one processor for one client's update in one round, alike at the client and at the server."""

    seed: int
    processor: str
    round: int
    client: int

    def torch(self, purpose: str) -> torch.Generator:
        """Return the stream named by (seed, processor and purpose, round, client), from its beginning.

        Everybody who knows the run's seed can draw the same numbers. Noise for privacy needs a secret key instead.
        """
        return torch_stream(self.seed, f"{self.processor}.{purpose}", self.round, self.client)


@dataclass(frozen=True)
class Outgoing:
    """What a processor makes of an update at the client.

    Attributes:
        update: What is sent.
        state: What the client keeps to itself until its next update; the next checkpoint holds it.
        figures: Measurements of this update, by the names in ``Processor.figures``. They travel to the server.
    """

    update: Update
    state: PromptState = field(default_factory=PromptState)
    figures: Mapping[str, float] = field(default_factory=dict)


class Processor(ABC):
    """A change to updates, in two halves: ``outgoing`` at the client, ``incoming`` at the server.

    A processor keeps nothing between calls: the client's state comes in and goes out as a value, and random numbers
    come from ``Streams``. So it does the same on every engine, and a resumed run ends with the same bits. A new
    processor is a class with a ``ProcessorConfig``, registered by ``@PROCESSORS.register("name")``.
    """

    Config: ClassVar[type[ProcessorConfig]] = ProcessorConfig
    figures: ClassVar[tuple[str, ...]] = ()
    """Names of the measurements of ``outgoing``; the server refuses other names."""

    def __init__(self, config: ProcessorConfig) -> None:
        self.config = config

    def check(self, update: PromptState, broadcast: PromptState) -> None:  # noqa: B027 (most act on whatever comes)
        """Check, before anything slow happens, that this processor can act on what the method sends.

        Args:
            update: An example of what it is given: the right names, shapes and kinds of numbers, all zero.
            broadcast: What clients are sent in round 1.

        Raises:
            ProcessorError: It cannot; the reason as the end of a sentence that begins with the processor's name.
        """

    @abstractmethod
    def outgoing(self, update: Update, broadcast: Broadcast, state: PromptState, streams: Streams) -> Outgoing:
        """Process one client's update before it is sent.

        Args:
            update: From the method, or from the processor before. Tensors are float32 or integers.
            broadcast: What the client was sent in this round.
            state: What the client kept after its last update that was not refused; empty at first.
            streams: Where random numbers come from.

        Returns:
            What is sent, kept and reported.

        Raises:
            ProcessorError: It cannot act on this update, which costs the client its update.
        """

    def incoming(self, update: Update, broadcast: Broadcast, streams: Streams) -> Update:
        """Undo at the server what must be undone before the update is checked and merged; by default nothing.

        ``update`` may come from a stranger: names and shapes are to be checked here.

        Raises:
            ProcessorError: It is not what ``outgoing`` makes; the update is refused.
        """
        return update

    def summary(self, figures: Sequence[Mapping[str, float]]) -> str:
        """Return a sentence about the ``figures`` of all updates of a run, empty if there is nothing to say."""
        return ""


PROCESSORS: Registry[type[Processor]] = Registry(
    "processor", "promptfed.privacy", "promptfed.compression",
    group="promptfed.processors", required=("Config", "outgoing", "incoming", "check", "figures"),
)  # fmt: skip


def floating_names(tensors: PromptState) -> list[str]:
    """Return the names of the tensors that hold real numbers."""
    return [name for name, tensor in tensors.items() if tensor.is_floating_point()]


def check_floating(tensors: PromptState) -> None:
    """Raise ProcessorError if no tensor holds real numbers: a text, tokens, or nothing at all."""
    if not tensors:
        raise ProcessorError("has nothing to act on: this method sends nothing")
    if not floating_names(tensors):
        raise ProcessorError(f"acts on real numbers, and this method sends {', '.join(tensors)} as whole numbers")
