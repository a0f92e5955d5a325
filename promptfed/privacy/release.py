"""What the server makes of a round's changes where it is to learn no more than their sum.

``PrivateMean`` is client-level differential privacy at the server: McMahan et al. 2018 (arXiv 1710.06963), with a
fixed denominator::

    S = sum_i d_i min(1, C / |d_i|) + N(0, z^2 C^2 I),    d_i = theta_i - theta
    theta <- theta + S / (q N)

``q N`` is public: a client that drops out, or whose update is refused, counts as a change of zero, so that one client
changes the sum by at most C. ``SumMean`` is the mean of the clients that answered, from a secure sum, without noise.

The mean goes to the server's rule as one update, so every rule that needs no more than the mean (FedOpt's, for example)
works on it; of what is private, all that it does is post-processing.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from promptfed.errors import SecureSumError
from promptfed.privacy.noise import noised_sum, release_stream
from promptfed.privacy.sampling import poisson_sample
from promptfed.privacy.secret_key import SecretKey
from promptfed.prompt_state import PromptState
from promptfed.types import NO_PROMPT, Update

EVERYBODY = -1
"""The number of the client in whose name the mean of a round is merged."""


class Total(NamedTuple):
    """A sum of changes: its ``values`` ``(values,)`` float64, and how many ``clients`` are in it."""

    values: Tensor
    clients: int


Sums = Callable[[Mapping[int, Tensor], Sequence[int], PromptState, int], Total]
"""(client -> change ``(values,)``, clients that were asked, what they were sent, round) -> the sum of the changes."""


@dataclass(frozen=True)
class Spent:
    """One release: what it was made of, and what it costs; ``clip`` is 0 where every round has the same.

    ``mark`` is a keyed hash of the clipped sum: a round that is repeated with the same updates is the same release,
    with the same noise. Without the key, it tells nothing of the sum.
    """

    round: int
    mark: str
    multiplier: float
    probability: float
    clip: float = 0.0


class Traffic(NamedTuple):
    """Bytes that the messages of a secure sum cost one client: ``up`` from it, ``down`` to it."""

    up: int
    down: int


class SecretSums(ABC):
    """Sum the changes of a round so that nobody sees a single one: clients send messages of the sum, and no updates.

    Attributes:
        traffic: Client -> what the messages of the last sum cost it; of a sum that failed, those before that.
    """

    def __init__(self) -> None:
        self.traffic: Mapping[int, Traffic] = {}

    @abstractmethod
    def __call__(self, changes: Mapping[int, Tensor], asked: Sequence[int], shared: PromptState, round: int) -> Total:
        """Return the sum, as ``Sums`` says."""

    def count(self, up: Mapping[int, int], down: Mapping[int, int]) -> None:
        """Note the bytes of a sum: client -> bytes from it, and to it."""
        self.traffic = {client: Traffic(up.get(client, 0), down.get(client, 0)) for client in sorted({*up, *down})}


def plain_sum(changes: Mapping[int, Tensor], asked: Sequence[int], shared: PromptState, round: int) -> Total:
    """Return the sum of ``changes``, as a server makes it that sees all of them."""
    values = torch.stack(list(changes.values())).sum(0) if changes else torch.zeros(0).double()
    return Total(values, len(changes))


class Release(ABC):
    """Makes one update of all updates of a round.

    Args:
        clip: C, the largest L2 norm of a client's change over all tensors together.
        sums: How the changes are summed; a secure sum shows nobody a single one.
    """

    counts_all: ClassVar[bool] = False
    """Whether clients without a usable update take part with a change of zero, lest a sum fail for want of them."""

    def __init__(self, clip: float, sums: Sums = plain_sum) -> None:
        self.clip, self.sums = clip, sums

    def participants(self, round: int) -> list[int] | None:
        """Return who takes part in ``round``; None: whom the run's public seed draws."""
        return None

    @property
    def is_secret(self) -> bool:
        """Whether clients send the messages of a secure sum in place of their updates."""
        return isinstance(self.sums, SecretSums)

    def take_traffic(self) -> Mapping[int, Traffic]:
        """Return client -> what a secure sum cost it since the last call."""
        if not isinstance(self.sums, SecretSums):
            return {}
        traffic, self.sums.traffic = self.sums.traffic, {}
        return traffic

    @abstractmethod
    def mean(
        self, shared: PromptState, names: Sequence[str], updates: Sequence[Update], asked: Sequence[int], round: int
    ) -> Update:
        """Return the mean of a round as one update in everybody's name.

        Args:
            shared: The prompt that all were sent.
            names: The tensors that clients send; the order of the values.
            updates: Of those that answered, perhaps none. One that is not finite counts as no change.
            asked: The clients that were asked.
            round: The round.

        Raises:
            SecureSumError: There is no sum, because too few answered.
        """

    def start(self) -> PromptState:
        """Return what is remembered before round 1, as a part of the server's state; by default nothing is."""
        return NO_PROMPT

    def released(
        self,
        shared: PromptState,
        names: Sequence[str],
        updates: Sequence[Update],
        asked: Sequence[int],
        round: int,
        memory: PromptState,
    ) -> tuple[Update, PromptState]:
        """Return ``mean`` and what is remembered for the next round, from ``memory`` of the round before."""
        return self.mean(shared, names, updates, asked, round), memory

    def changes(
        self, shared: PromptState, names: Sequence[str], updates: Sequence[Update], clip: float | None = None
    ) -> dict[int, Tensor]:
        """Return client -> its change ``(values,)`` float64, within ``clip``; zeros where an update has no tensors.

        By default the clip is the one of all rounds. Zeros are there where a client itself has the change, and ``sums``
        asks it for its part.
        """
        start, changes = flattened(shared, names), {}
        for update in updates:
            change = flattened(update.shared, names) - start if update.shared else torch.zeros_like(start)
            if (short := clipped(change, self.clip if clip is None else clip)) is not None:
                changes[update.client] = short
            elif self.counts_all:
                changes[update.client] = torch.zeros_like(start)
        return changes

    def _update(self, shared: PromptState, names: Sequence[str], mean: Tensor) -> Update:
        parts = mean.split([shared[name].numel() for name in names])
        tensors = {
            name: shared[name].double() + part.reshape(shared[name].shape)
            for name, part in zip(names, parts, strict=True)
        }
        return Update(EVERYBODY, PromptState(tensors), 1, math.nan, math.nan)


class PrivateMean(Release):
    """The noised sum of a round over the expected number of clients, accounted for. The server is trusted.

    Args:
        key: The secret from which noise and samples come; never the run's seed, which every site knows.
        clip: C, the largest L2 norm of a client's change over all tensors together.
        multiplier: z, the noise's standard deviation over C.
        clients: All clients of the federation, N.
        probability: q, with which each takes part in a round, by a secret coin of its own; 1: all do.
        account: Is told each release before anybody sees it.
        stage: What the noise is for, as a part of its label.
        sums: How the changes are summed.
    """

    counts_all = True

    def __init__(
        self,
        key: SecretKey,
        clip: float,
        multiplier: float,
        clients: Sequence[int],
        probability: float = 1.0,
        account: Callable[[Spent], None] = lambda spent: None,
        stage: str = "",
        sums: Sums = plain_sum,
    ) -> None:
        super().__init__(clip, sums)
        self.key, self.multiplier = key, multiplier
        self.clients, self.probability, self.account, self.stage = tuple(clients), probability, account, stage

    def participants(self, round: int) -> list[int]:
        """Return who takes part in ``round``: all, or those whose secret coin says so, perhaps nobody."""
        if self.probability >= 1:
            return list(self.clients)
        places = poisson_sample(self.key, round, len(self.clients), self.probability, self.stage)
        return [self.clients[place] for place in places]

    @property
    def denominator(self) -> float:
        """The expected number of clients in a round, q N."""
        return self.probability * len(self.clients)

    def mean(
        self, shared: PromptState, names: Sequence[str], updates: Sequence[Update], asked: Sequence[int], round: int
    ) -> Update:
        total = torch.zeros_like(flattened(shared, names))
        if changes := self.changes(shared, names, updates):
            with suppress(SecureSumError):  # whether there is a sum tells who took part: then zero is released
                total = self.sums(changes, asked, shared, round).values
        mark = self.key.keyed_hash(total.numpy().tobytes()).hex()
        self.account(Spent(round, mark, self.multiplier, self.probability))
        if self.multiplier:
            stream = release_stream(self.key, self.stage, round, total, self.clip, self.multiplier)
            total = noised_sum(total, self.clip, self.multiplier, stream)
        return self._update(shared, names, total / self.denominator)


class SumMean(Release):
    """The mean over the clients that answered, all with the same weight, from their sum."""

    def mean(
        self, shared: PromptState, names: Sequence[str], updates: Sequence[Update], asked: Sequence[int], round: int
    ) -> Update:
        changes = self.changes(shared, names, updates)
        if not changes:
            raise SecureSumError("no client sent a change")
        total = self.sums(changes, asked, shared, round)
        return self._update(shared, names, total.values / total.clients)


def clipped(change: Tensor, clip: float) -> Tensor | None:
    """Return ``change`` shortened to an L2 norm of ``clip`` at most; None if that is not finite."""
    length = change.norm().item()
    if not math.isfinite(length):
        return None
    return change * min(1.0, clip / length) if length else change


def flattened(tensors: PromptState, names: Sequence[str]) -> Tensor:
    """Return the values of ``names`` in this order, ``(values,)`` float64."""
    return torch.cat([tensors[name].double().flatten() for name in names]) if names else torch.zeros(0).double()
