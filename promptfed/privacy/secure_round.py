"""A secure sum from end to end in one process, for simulated clients: the legs and messages are those between sites.

Who simulates has all updates before it; what it gains is the sum as deployed sites would give it, drop-outs included,
and what that costs.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from promptfed.errors import SecureSumError
from promptfed.privacy.channel_keys import Identity
from promptfed.privacy.fixed_point import Reals
from promptfed.privacy.noise_shares import NO_SHARES, NoiseShares
from promptfed.privacy.secure_member import Member
from promptfed.privacy.secure_sum import Summation
from promptfed.privacy.sum_messages import Message, nbytes
from promptfed.privacy.sum_terms import SumTerms, default_threshold

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class SecureRound:
    """The sum of a round, and what it cost.

    Attributes:
        values: ``(d,)``, the sum of weight times change over ``clients``, and of their noise.
        weight: The sum of their weights.
        clients: Those whose changes are in it.
        cut: Values beyond the bound, of all of them.
        bytes_up: What a client sent in all legs, the most of any.
        bytes_down: What a client was sent in all legs, without the broadcast; the most of any.
        client_seconds: Processor time of a client in all legs; the mean of those who stayed to the end.
        server_seconds: Processor time of the server.
    """

    values: Reals
    weight: int
    clients: tuple[int, ...]
    cut: int
    bytes_up: int
    bytes_down: int
    client_seconds: float
    server_seconds: float


def secure_sum_of(
    changes: Mapping[int, Reals],
    broadcast: bytes,
    bound: float,
    lost: Collection[int] = (),
    *,
    round: int = 1,
    run: str = "simulation",
    threshold: int | None = None,
    weights: Mapping[int, int] | None = None,
    max_weight: int = 1,
    shares: NoiseShares = NO_SHARES,
    noise_keys: Mapping[int, bytes] | None = None,
    bytes_up: Counter[int] | None = None,
    bytes_down: Counter[int] | None = None,
) -> SecureRound:
    """Return the sum over all of ``changes`` but those of ``lost``, with the noise that clients add by ``shares``.

    Args:
        changes: Client -> ``(d,)``, for every client of the round.
        broadcast: SHA-256 of what all of them were sent.
        bound: The largest absolute value of a change; larger ones are cut.
        lost: Clients that share their secrets and then send no values: what costs the server most.
        round: From 1.
        run: The run's identity.
        threshold: How many must be left; by default more than two thirds.
        weights: Client -> its weight; by default 1.
        max_weight: The largest weight.
        shares: The noise that each client adds.
        noise_keys: Client -> 32 secret bytes that its noise and its rounding come from; by default fresh ones.
        bytes_up: Gets client -> bytes that it sent, also if there is no sum.
        bytes_down: Gets client -> bytes that it was sent, without the broadcast.

    Raises:
        SecureSumError: Too few clients are left, or ``changes`` have different sizes or are not finite.
    """
    cohort = tuple(sorted(changes))
    if not cohort:
        raise SecureSumError("there are no changes to sum")
    threshold = default_threshold(len(cohort)) if threshold is None else threshold
    size = len(changes[cohort[0]])
    noise = shares.multiplier, shares.honest
    terms = SumTerms(run, round, 1, broadcast, cohort, threshold, size, bound, max_weight, *noise)
    identities = {client: Identity.new() for client in cohort}
    public = {client: identity.public for client, identity in identities.items()}
    members = {client: Member(client, terms, identities[client], public) for client in cohort}
    traffic = _Traffic(Summation(terms, public), bytes_up, bytes_down)
    for client in cohort:
        traffic.up(client, members[client].keys)
    keys = traffic.timed(traffic.server.all_keys)
    for client in cohort:
        traffic.up(client, members[client].shares, keys)
    forwarded = traffic.timed(traffic.server.forwarded)
    present = [client for client in cohort if client not in lost]
    for client in present:
        weight = 1 if weights is None else weights[client]
        key = None if noise_keys is None else noise_keys[client]
        traffic.up(client, members[client].masked, forwarded[client], changes[client], weight, key)
    survivors = traffic.timed(traffic.server.survivors)
    for client in present:
        traffic.up(client, members[client].consent, survivors)
    consents = traffic.timed(traffic.server.consents)
    for client in present:
        traffic.up(client, members[client].unmask, consents)
    result = traffic.timed(traffic.server.result)
    return SecureRound(
        values=result.values,
        weight=result.weight,
        clients=result.clients,
        cut=sum(terms.fixed.beyond(changes[client]) for client in result.clients),
        bytes_up=max(traffic.bytes_up.values()),
        bytes_down=max(traffic.bytes_down.values()),
        client_seconds=sum(traffic.seconds[client] for client in present) / len(present),
        server_seconds=traffic.server_seconds,
    )


class _Traffic:
    """What goes to and fro between clients and server, counted and timed."""

    def __init__(self, server: Summation, bytes_up: Counter[int] | None, bytes_down: Counter[int] | None) -> None:
        self.server, self.server_seconds = server, 0.0
        self.bytes_up = Counter[int]() if bytes_up is None else bytes_up
        self.bytes_down = Counter[int]() if bytes_down is None else bytes_down
        self.seconds = defaultdict[int, float](float)

    def up(self, client: int, leg: Callable[..., Message], *given: Any) -> None:
        """Take ``client`` through a ``leg``; what it is ``given`` begins with the server's message, if there is one."""
        self.bytes_down[client] += nbytes(given[0]) if given else 0
        start_time = time.thread_time()
        answer = leg(*given)
        self.seconds[client] += time.thread_time() - start_time
        self.bytes_up[client] += nbytes(answer)
        self.timed(lambda: self.server.add(client, answer))

    def timed(self, work: Callable[[], T]) -> T:
        """Return what the server's ``work`` returns."""
        start_time = time.thread_time()
        result = work()
        self.server_seconds += time.thread_time() - start_time
        return result
