"""What a malicious client may send in the place of its update. Used by tests and by scripts/attack_table.py."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from promptfed.engines.base import Worker
from promptfed.prompt_state import PromptState
from promptfed.seeding import numpy_stream
from promptfed.types import Job, Reply

Attack = Callable[[Reply, Job], Reply]
"""Makes of a client's honest reply to a job what it really sends."""


def sign_flip(factor: float) -> Attack:
    """Return the attack that sends the honest change reversed and ``factor`` times as long."""
    return scale(-factor)


def scale(factor: float) -> Attack:
    """Return the attack that sends the honest change ``factor`` times as long."""

    def change(reply: Reply, job: Job) -> Reply:
        sent = job.broadcast.shared
        return _sends(reply, lambda name, tensor: sent[name] + factor * (tensor - sent[name]))

    return change


def noise(ratio: float) -> Attack:
    """Return the attack that adds Gaussian noise, ``ratio`` times as long as the honest change, to the update."""

    def change(reply: Reply, job: Job) -> Reply:
        sent = job.broadcast.shared

        def noisy(name: str, tensor: Tensor) -> Tensor:
            stream = numpy_stream(0, "attack", name, reply.round, reply.client)
            drawn = torch.from_numpy(stream.standard_normal(tuple(tensor.shape)))
            length = (tensor.double() - sent[name].double()).norm()
            noisy_tensor: Tensor = sent[name].double() + drawn * (ratio * length / drawn.norm())
            return noisy_tensor

        return _sends(reply, noisy)

    return change


def constant(value: float) -> Attack:
    """``value`` in the place of every number."""
    return lambda reply, job: _sends(reply, lambda name, tensor: torch.full_like(tensor, value))


def claim(**figures: Any) -> Attack:
    """Return the attack that sends the honest prompt with false figures, such as ``claim(samples=10**9)``."""
    return lambda reply, job: replace(reply, update=replace(reply.update, **figures))


def both(first: Attack, second: Attack) -> Attack:
    """``second`` made of what ``first`` made."""
    return lambda reply, job: second(first(reply, job), job)


def poisoned(worker: Worker, attack: Attack, clients: Collection[int]) -> Worker:
    """``worker``, with ``clients`` whose replies are what ``attack`` makes of them. A failure stays a failure."""

    def work(jobs: Sequence[Job]) -> list[Reply]:
        replies = worker(jobs)
        return [
            attack(reply, job) if reply.client in clients and not reply.failure else reply
            for reply, job in zip(replies, jobs, strict=True)
        ]

    return work


def _sends(reply: Reply, change: Callable[[str, Tensor], Tensor]) -> Reply:
    tensors = {name: change(name, tensor) for name, tensor in reply.update.shared.items()}
    return replace(reply, update=replace(reply.update, shared=PromptState(tensors)))


ATTACKS: dict[str, Attack] = {
    "sign flip x10": sign_flip(10),
    "scale 1e3": scale(1e3),
    "noise x10": noise(10),
    "1e6": constant(1e6),
    "1e38": constant(1e38),
    "count 10^9": claim(samples=10**9),
}
"""By the names that the table gives them."""
