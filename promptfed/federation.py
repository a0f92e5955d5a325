"""The federation loop. Read this and you have read the system: it is the papers' Algorithm 1."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from promptfed.aggregators.base import Aggregator
from promptfed.engines.base import Engine, OnReply, ShouldStop, never
from promptfed.errors import TrainingError
from promptfed.methods.base import Method, Shape
from promptfed.prompts import PromptState
from promptfed.runs.personal_store import renewed
from promptfed.seeding import numpy_stream
from promptfed.types import NO_PROMPT, Broadcast, ClientPrompt, FederationState, Job, Reply


class Federation:
    """Clients, a method, an aggregator and an engine. It holds no state: states go in and come out.

    A round in which fewer than ``quorum`` (a share of those asked) gave a usable update leaves the shared prompt as
    it was; those who did train keep their personal prompts. A round is closed after ``round_seconds``. ``stage`` is
    what its jobs are marked with.
    """

    def __init__(
        self,
        method: Method,
        aggregator: Aggregator,
        engine: Engine,
        clients: Sequence[int],
        participation: float = 1.0,
        quorum: float = 0.0,
        round_seconds: float | None = None,
        stage: str = "",
    ) -> None:
        self.method, self.engine = method, engine
        self.server = method.server_side(aggregator)
        self.clients, self.participation, self.quorum = sorted(clients), participation, quorum
        self.round_seconds, self.stage = round_seconds, stage

    def start(self) -> FederationState:
        """The state before round 1: the initial shared prompt, and every client's own personal prompt."""
        shared = self.method.init_shared()
        personal = {client: self.method.init_personal(client) for client in self.clients}
        return FederationState(0, shared, self.server.init(shared), personal)

    def participants(self, round: int) -> list[int]:
        """The clients of ``round``: the fraction rounded half up, at least one, without replacement."""
        count = max(1, round_half_up(self.participation * len(self.clients)))
        drawn = self.clients
        if count < len(self.clients):
            stream = numpy_stream(self.method.setup.seed, "participants", round)
            drawn = sorted(int(c) for c in stream.choice(self.clients, count, replace=False))
        return sorted(self.method.participants(round, drawn, self.clients))

    def run_round(
        self, state: FederationState, on_reply: OnReply | None = None, should_stop: ShouldStop = never
    ) -> tuple[FederationState, tuple[Reply, ...]]:
        """One round: sample, broadcast, train, merge. Returns the next state and the round's replies.

        If ``should_stop`` cut the round short, the returned state has the same ``round`` and holds the replies so
        far as ``pending``; running it again finishes the round with the same result as if it had never stopped.
        Raises TrainingError if every client failed with an error.
        """
        round = state.round + 1
        chosen = self.participants(round)
        finished = {reply.client for reply in state.pending}
        jobs = [
            Job(client, Broadcast(round, self.sent(state, client)), state.personal[client], self.stage)
            for client in chosen
            if client not in finished
        ]
        sent = {job.client: job.broadcast.shared for job in jobs}

        def judge(reply: Reply) -> Reply:
            return judged(reply, self.method.uploads(reply.client, sent[reply.client]))

        heard = on_reply and (lambda reply: on_reply(judge(reply)))
        fresh = self.engine.run_round(jobs, heard, should_stop, self.round_seconds)
        replies = tuple(sorted((*state.pending, *map(judge, fresh)), key=lambda reply: reply.client))
        if len(replies) < len(chosen):
            return replace(state, pending=replies), replies
        if all(reply.failure.startswith(("error", "refused")) for reply in replies):
            raise TrainingError(replies[0].failure.partition(": ")[2])
        good = [reply for reply in replies if not reply.failure]
        shared, server = state.shared, state.server
        needed = math.ceil(self.quorum * len(chosen) - 1e-9)  # 0.07 * 100 is a little more than 7
        if len(good) >= max(1, needed):
            shared, server = self.server.apply(shared, [reply.update for reply in good], server)
        personal = renewed(state.personal, {reply.client: reply.personal for reply in good}, round)
        return FederationState(round, shared, server, personal), replies

    def prompt(self, state: FederationState, client: int | None) -> ClientPrompt:
        """What ``client`` would deploy now; None asks for a client that never took part."""
        personal = NO_PROMPT if client is None else state.personal[client]
        return ClientPrompt(self.sent(state, client), personal)

    def prompts(self, state: FederationState) -> Mapping[int, ClientPrompt]:
        """What each client would deploy now, made when it is asked for."""
        return _Prompts(self, state)

    def sent(self, state: FederationState, client: int | None) -> PromptState:
        """What ``client`` is sent in the next round."""
        return self.server.broadcast(state.shared, state.server, client)


class _Prompts(Mapping[int, ClientPrompt]):
    def __init__(self, federation: Federation, state: FederationState) -> None:
        self._federation, self._state = federation, state

    def __getitem__(self, client: int) -> ClientPrompt:
        return self._federation.prompt(self._state, client)

    def __iter__(self) -> Iterator[int]:
        return iter(self._federation.clients)

    def __len__(self) -> int:
        return len(self._federation.clients)


def judged(reply: Reply, expected: Mapping[str, Shape]) -> Reply:
    """``reply``, marked as refused if its update is not finite or is not what was asked for."""
    if reply.failure:
        return reply
    update = reply.update.shared
    why = ""
    if set(update) != set(expected):
        why = f"names {sorted(update)} instead of {sorted(expected)}"
    elif wrong := [name for name in update if not _fits(update[name].shape, expected[name])]:
        why = f"'{wrong[0]}' is {tuple(update[wrong[0]].shape)} instead of {expected[wrong[0]]}"
    elif not update.is_finite() or not reply.personal.is_finite():
        why = "numbers that are not finite"
    elif reply.update.samples < 1:
        why = f"an update for {reply.update.samples} samples"
    if not why:
        return reply
    return replace(reply, failure=f"refused: client {reply.client} sent {why} in round {reply.round}")


def _fits(shape: Sequence[int], wanted: Shape) -> bool:
    return len(shape) == len(wanted) and all(w is None or s == w for s, w in zip(shape, wanted, strict=True))


def round_half_up(value: float) -> int:
    return int(value + 0.5)
