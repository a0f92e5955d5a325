"""A round as malicious clients see it: updates as vectors of changes from what was sent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from promptfed.prompt_state import PromptState
from promptfed.seeding import numpy_stream
from promptfed.types import Job, Reply


def changing_names(shared: PromptState, sent: PromptState) -> list[str]:
    """Return the tensors of an update that are changes of real numbers from the broadcast ``sent``."""
    return [
        name
        for name, tensor in shared.items()
        if tensor.is_floating_point() and name in sent and sent[name].shape == tensor.shape
    ]


def change_of(shared: PromptState, sent: PromptState) -> Tensor:
    """Return the change ``(d,)`` from ``sent`` in float64, all tensors in the order of their names."""
    parts = [(shared[n].double() - sent[n].double()).flatten() for n in changing_names(shared, sent)]
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.float64)


def with_change(shared: PromptState, sent: PromptState, change: Tensor) -> PromptState:
    """Return the update ``sent + change``; tensors of ``shared`` that are no changes stay as they are."""
    tensors, place = dict(shared), 0
    for name in changing_names(shared, sent):
        part = change[place : place + shared[name].numel()]
        tensors[name] = (sent[name].double() + part.view(sent[name].shape)).float()
        place += len(part)
    return PromptState(tensors)


def sends_change(reply: Reply, job: Job, change: Tensor) -> Reply:
    """Return ``reply`` with another ``change`` from what ``job`` sent."""
    shared = with_change(reply.update.shared, job.broadcast.shared, change)
    return replace(reply, update=replace(reply.update, shared=shared))


@dataclass(frozen=True)
class Round:
    """The honest updates that are known to malicious clients.

    Attributes:
        number: The round.
        seed: The run's seed.
        changes: Client -> its honest change ``(d,)``, of all who trained side by side.
        malicious: The malicious clients of the run.
    """

    number: int
    seed: int
    changes: dict[int, Tensor]
    malicious: frozenset[int]

    @classmethod
    def of(cls, jobs: Sequence[Job], replies: Sequence[Reply], malicious: frozenset[int], seed: int) -> Round:
        """Return the round of ``replies``, which are honest yet; failures are left out."""
        changes = {
            reply.client: change_of(reply.update.shared, job.broadcast.shared)
            for reply, job in zip(replies, jobs, strict=True)
            if not reply.failure
        }
        return cls(jobs[0].broadcast.round, seed, changes, malicious)

    @property
    def group(self) -> list[int]:
        """The malicious clients of this round, rising."""
        return sorted(client for client in self.changes if client in self.malicious)

    @property
    def honest(self) -> list[int]:
        """The other clients of this round, rising."""
        return sorted(client for client in self.changes if client not in self.malicious)

    def known(self, client: int, *, group_only: bool) -> Tensor:
        """Return the changes ``(n, d)`` that the attackers compute with, those of ``client`` included where there are.

        These are the honest clients' of this round. With ``group_only``, or where fewer than two are known, they are
        the malicious clients' own honest ones, as in the non-omniscient version of the papers.
        """
        size = len(self.changes[client])
        honest = [self.changes[c] for c in self.honest if len(self.changes[c]) == size]
        group = [self.changes[c] for c in self.group if len(self.changes[c]) == size]
        return torch.stack(group if group_only or len(honest) < 2 else honest)

    def stream(self, attack: str, client: int) -> np.random.Generator:
        """Return the stream (seed, "attack", name, round, client)."""
        return numpy_stream(self.seed, "attack", attack, self.number, client)
