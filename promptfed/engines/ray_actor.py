"""The Ray actor: it holds one frozen backbone and does the work of clients."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from promptfed.engines.base import Worker, Workplace
from promptfed.engines.worker import run_isolated
from promptfed.errors import BudgetExhausted, OracleError, PromptFedError
from promptfed.privacy.dpsgd import ExampleTerms
from promptfed.prompt_state import PromptState
from promptfed.types import NO_PROMPT, Broadcast, Job, Reply


@dataclass(frozen=True)
class ActorJob:
    """A job as it travels to an actor. The shared prompt travels beside it.

    Attributes:
        client: The number of the client.
        round: The number of the round.
        stage: The method or baseline that trains.
        personal: The personal prompt of the client, as bytes.
    """

    client: int
    round: int
    stage: str
    personal: bytes


@dataclass(frozen=True)
class ActorReply:
    """A reply as it travels back: ``reply`` without its prompts, and the prompts as bytes."""

    reply: Reply
    shared: bytes
    personal: bytes


@dataclass(frozen=True)
class Refusal:
    """An error that ends the run: its class in promptfed.errors, and its message."""

    kind: str
    said: str


def packed(state: PromptState) -> bytes:
    """Return the state as safetensors bytes; the empty state takes no bytes."""
    return state.to_bytes() if len(state) else b""


def unpacked(data: bytes) -> PromptState:
    """Return the state that ``packed`` turned into ``data``."""
    return PromptState.from_bytes(data) if data else NO_PROMPT


class ClientActor:
    """Do the work of clients with one workplace, which is loaded by the first ``prepare``."""

    def __init__(self, make: Callable[[], Workplace], threads: int, environment: Mapping[str, str]) -> None:
        """Set the environment; nothing is loaded yet.

        Args:
            make: Builds the workplace.
            threads: The number of torch threads.
            environment: Variables of the run's process. They are set where the actor has none of that name.
        """
        for name, value in environment.items():
            os.environ.setdefault(name, value)
        self._make, self._threads = make, threads
        self._place: Workplace | None = None
        self._workers: dict[str, Worker] = {}
        self._examples: dict[str, ExampleTerms | None] = {}

    def prepare(self, stage: str, examples: ExampleTerms | None = None) -> int | Refusal:
        """Load all that ``stage`` needs, before the clock of any client starts.

        Args:
            stage: The method or baseline that trains.
            examples: How it protects single examples; None: it does not.

        Returns:
            The process id, or the error that ends the run.
        """
        try:
            if self._place is None:
                _warm_up(self._threads)
                self._place = self._make()
            if stage not in self._workers or self._examples[stage] != examples:
                self._workers[stage] = self._place.worker(stage, examples) if examples else self._place.worker(stage)
                self._examples[stage] = examples
        except PromptFedError as error:
            return Refusal(type(error).__name__, str(error))
        return os.getpid()

    def work(self, parcels: Sequence[ActorJob], *shared: bytes) -> list[ActorReply] | Refusal:
        """Train the clients.

        Args:
            parcels: The jobs of the clients, all of one stage.
            shared: The shared prompt of each job, as bytes.

        Returns:
            One reply for each job, or the error that ends the run.
        """
        states: dict[bytes, PromptState] = {}  # one object for all equal prompts, as in the server's process
        jobs = []
        for parcel, content in zip(parcels, shared, strict=True):
            if content not in states:
                states[content] = unpacked(content)
            broadcast = Broadcast(parcel.round, states[content])
            jobs.append(Job(parcel.client, broadcast, unpacked(parcel.personal), parcel.stage))
        try:
            replies = run_isolated(self._workers[parcels[0].stage], jobs)
        except (BudgetExhausted, OracleError) as error:
            return Refusal(type(error).__name__, str(error))
        return [_answer(reply, len(content)) for reply, content in zip(replies, shared, strict=True)]

    def verify_frozen(self) -> Refusal | None:
        """Return what is wrong with the model; None if nothing is."""
        try:
            if self._place is not None:
                self._place.verify_frozen()
        except PromptFedError as error:
            return Refusal(type(error).__name__, str(error))
        return None


def _warm_up(threads: int) -> None:
    """Have torch start the threads of its backward pass before the first client starts."""
    import torch

    torch.set_num_threads(threads)
    weight = torch.zeros(1, requires_grad=True)
    weight.sum().backward()


def _answer(reply: Reply, bytes_down: int) -> ActorReply:
    shared, personal = packed(reply.update.shared), packed(reply.personal)
    bare = replace(
        reply,
        update=replace(reply.update, shared=NO_PROMPT),
        personal=NO_PROMPT,
        bytes_up=len(shared),
        bytes_down=bytes_down,
    )
    return ActorReply(bare, shared, personal)
