"""What runs in a Ray actor: one frozen backbone, and the clients' work that is handed to it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from promptfed.engines.base import Worker, Workplace
from promptfed.engines.worker import run_isolated
from promptfed.errors import BudgetExhausted, OracleError, PromptFedError
from promptfed.prompt_state import PromptState
from promptfed.types import NO_PROMPT, Broadcast, Job, Reply


@dataclass(frozen=True)
class ActorJob:
    """A job as it is sent: the client's own prompt as bytes; the shared one travels beside it."""

    client: int
    round: int
    stage: str
    personal: bytes


@dataclass(frozen=True)
class ActorReply:
    """A reply as it is sent back: ``reply`` without its prompts, and these as bytes."""

    reply: Reply
    shared: bytes
    personal: bytes


@dataclass(frozen=True)
class Refusal:
    """An error that ends the run: its class in promptfed.errors, and what it says."""

    kind: str
    said: str


def packed(state: PromptState) -> bytes:
    """Safetensors bytes, none for the empty state: nothing is sent."""
    return state.to_bytes() if len(state) else b""


def unpacked(data: bytes) -> PromptState:
    return PromptState.from_bytes(data) if data else NO_PROMPT


class ClientActor:
    """``make`` builds what it works with, when it is first asked to prepare."""

    def __init__(self, make: Callable[[], Workplace], threads: int, environment: Mapping[str, str]) -> None:
        for name, value in environment.items():
            os.environ.setdefault(name, value)
        self._make, self._threads = make, threads
        self._place: Workplace | None = None
        self._workers: dict[str, Worker] = {}

    def prepare(self, stage: str) -> int | Refusal:
        """Load all that ``stage`` needs, so that no client's time is spent on it. Returns the process id."""
        try:
            if self._place is None:
                _warm_up(self._threads)
                self._place = self._make()
            if stage not in self._workers:
                self._workers[stage] = self._place.worker(stage)
        except PromptFedError as error:
            return Refusal(type(error).__name__, str(error))
        return os.getpid()

    def work(self, parcels: Sequence[ActorJob], *shared: bytes) -> list[ActorReply] | Refusal:
        """Do the clients' work. ``shared`` holds what each of them is sent."""
        known: dict[bytes, PromptState] = {}  # one object for all who are sent the same, as in the server's process
        jobs = []
        for parcel, sent in zip(parcels, shared, strict=True):
            if sent not in known:
                known[sent] = unpacked(sent)
            broadcast = Broadcast(parcel.round, known[sent])
            jobs.append(Job(parcel.client, broadcast, unpacked(parcel.personal), parcel.stage))
        try:
            replies = run_isolated(self._workers[parcels[0].stage], jobs)
        except (BudgetExhausted, OracleError) as error:
            return Refusal(type(error).__name__, str(error))
        return [_answer(reply, len(sent)) for reply, sent in zip(replies, shared, strict=True)]

    def verify_frozen(self) -> Refusal | None:
        """What is wrong with the model, None if nothing is."""
        try:
            if self._place is not None:
                self._place.verify_frozen()
        except PromptFedError as error:
            return Refusal(type(error).__name__, str(error))
        return None


def _warm_up(threads: int) -> None:
    """Torch loads much of itself with the first step of the first optimiser, which takes a second or two."""
    import torch

    torch.set_num_threads(threads)
    weight = torch.zeros(1, requires_grad=True)
    weight.sum().backward()
    torch.optim.Adam([weight]).step()


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
