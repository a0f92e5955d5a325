"""The federation loop. Read this and you have read the system: it is the papers' Algorithm 1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from promptfed.aggregators.base import Aggregator
from promptfed.engines.base import Engine, OnReply, ShouldStop, never
from promptfed.methods.base import Method
from promptfed.seeding import numpy_stream
from promptfed.types import Broadcast, FederationState, Job, Reply


class Federation:
    """Clients, a method, an aggregator and an engine. It holds no state: states go in and come out."""

    def __init__(
        self, method: Method, aggregator: Aggregator, engine: Engine, clients: Sequence[int], participation: float = 1.0
    ) -> None:
        self.method, self.aggregator, self.engine = method, aggregator, engine
        self.clients, self.participation = sorted(clients), participation

    def start(self) -> FederationState:
        """The state before round 1: the initial shared prompt, and every client's own personal prompt."""
        shared = self.method.init_shared()
        personal = {client: self.method.init_personal(client) for client in self.clients}
        return FederationState(0, shared, self.aggregator.init(shared), personal)

    def participants(self, round: int) -> list[int]:
        """The clients of ``round``: ``ceil``-free rounding of the fraction, at least one, without replacement."""
        count = max(1, round_half_up(self.participation * len(self.clients)))
        if count == len(self.clients):
            return list(self.clients)
        stream = numpy_stream(self.method.setup.seed, "participants", round)
        return sorted(int(c) for c in stream.choice(self.clients, count, replace=False))

    def run_round(
        self, state: FederationState, on_reply: OnReply | None = None, should_stop: ShouldStop = never
    ) -> tuple[FederationState, tuple[Reply, ...]]:
        """One round: sample, broadcast, train, merge. Returns the next state and the round's replies.

        If ``should_stop`` cut the round short, the returned state has the same ``round`` and holds the replies so
        far as ``pending``; running it again finishes the round with the same result as if it had never stopped.
        """
        round = state.round + 1
        chosen = self.participants(round)
        finished = {reply.client for reply in state.pending}
        broadcast = Broadcast(round, state.shared)
        jobs = [Job(c, broadcast, state.personal[c]) for c in chosen if c not in finished]
        fresh = self.engine.run_round(jobs, on_reply, should_stop)
        replies = tuple(sorted((*state.pending, *fresh), key=lambda reply: reply.client))
        if len(replies) < len(chosen):
            return replace(state, pending=replies), replies
        shared, server = self.aggregator.apply(state.shared, [reply.update for reply in replies], state.server)
        personal = {**state.personal, **{reply.client: reply.personal for reply in replies}}
        return FederationState(round, shared, server, personal), replies


def round_half_up(value: float) -> int:
    return int(value + 0.5)
