"""The federation loop. Read this and you have read the system: it is the papers' Algorithm 1."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from promptfed.aggregators.base import Aggregator, deployed
from promptfed.engines.base import Engine, OnReply, ShouldStop, never
from promptfed.errors import ConfigError, ProcessorError, SecureSumError, TrainingError, reason
from promptfed.kept_text import carried
from promptfed.merging import Merge, merge
from promptfed.method import Method
from promptfed.privacy.release import Release
from promptfed.processors.client_state import prompt_of
from promptfed.processors.pipeline import NO_PROCESSORS, Pipeline
from promptfed.prompt_state import PromptState
from promptfed.runs.personal_store import PersonalPrompts, rising, update_personal
from promptfed.screening import Expected, check_update, limited, most_bytes, outliers, refused
from promptfed.seeding import numpy_stream
from promptfed.types import NO_PROMPT, Broadcast, ClientPrompt, FederationState, Incident, Job, Reply, Update

LOG = logging.getLogger(__name__)
OnIncident = Callable[[Incident], None]
KEPT_BROADCASTS = 1024
"""Broadcasts of one state that are kept besides those of its round, lest the server side is asked twice."""


class Federation:
    """Clients, a method, an aggregator and an engine. It holds no state: states go in and come out.

    A round in which fewer than ``quorum`` (a share of those asked) gave a usable update leaves the shared prompt as
    it was; those who did train keep their personal prompts. A round is closed after ``round_seconds``. ``stage`` is
    what its jobs are marked with.

    What clients say is not believed: promptfed.screening refuses replies, lowers counts of samples to what ``samples``
    (client -> the most examples that it has) allows, and weights to ``max_weight_share`` of a round. Before that,
    ``processors``, the very ones of the clients' work, turn what was sent into updates of the method again.

    With a ``release``, the server's rule gets the noised mean of a round and no single update. It merges in every
    round, whoever answered: whether it does must not tell who did. ``is_private``: no round runs without a release.
    ``has_figures``: clients say what their loss and accuracy was.
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
        samples: Mapping[int, int] | None = None,
        max_weight_share: float = 0.5,
        processors: Pipeline = NO_PROCESSORS,
        release: Release | None = None,
        is_private: bool = False,
        has_figures: bool = True,
    ) -> None:
        self.method, self.engine = method, engine
        self.server = method.server_side(aggregator.seeded(method.setup.seed))
        self.clients, self.participation, self.quorum = rising(clients), participation, quorum
        self.round_seconds, self.stage = round_seconds, stage
        self.samples, self.max_weight_share = samples or {}, max_weight_share
        self.processors, self.release, self.is_private = processors, release, is_private
        self.has_figures = has_figures
        self._computed: tuple[PromptState, PromptState, dict[int | None, PromptState]] | None = None

    def __repr__(self) -> str:
        return f"<federation of {len(self.clients)} clients: {self.method!r}, {self.server!r}, {self.engine!r}>"

    def start(self, shared: PromptState | None = None) -> FederationState:
        """Return the state before round 1.

        It has the initial shared prompt, ``shared`` or the method's, and every client's own personal prompt.
        """
        shared = self.method.init_shared() if shared is None else shared
        memory = NO_PROMPT if self.release is None else self.release.start()
        return self.resumed(FederationState(0, shared, PromptState({**self.server.init(shared), **memory})))

    def resumed(self, state: FederationState) -> FederationState:
        """Return ``state``, as a checkpoint has it, with the initial prompts of clients that it leaves out."""
        if isinstance(state.personal, PersonalPrompts):
            return state
        return replace(state, personal=PersonalPrompts(self.clients, self.method.init_personal, state.personal))

    def participants(self, round: int) -> list[int]:
        """Return the clients of ``round``: the fraction rounded half up, at least one, without replacement.

        A private release draws them in secret.
        """
        if self.release is not None and (secret := self.release.participants(round)) is not None:
            return secret
        count = max(1, round_half_up(self.participation * len(self.clients)))
        drawn = self.clients
        if count < len(self.clients):
            stream = numpy_stream(self.method.setup.seed, "participants", round)
            drawn = sorted(int(c) for c in stream.choice(self.clients, count, replace=False))
        return sorted(self.method.participants(round, drawn, self.clients))

    def run_round(
        self,
        state: FederationState,
        on_reply: OnReply | None = None,
        should_stop: ShouldStop = never,
        on_incident: OnIncident | None = None,
        broadcasts: Mapping[int, PromptState] | None = None,
    ) -> tuple[FederationState, tuple[Reply, ...]]:
        """One round: sample, broadcast, train, merge. Returns the next state and the round's replies.

        ``broadcasts`` are those of ``state``, for a caller that has them.

        If ``should_stop`` cut the round short, the returned state has the same ``round`` and holds the replies so
        far as ``pending``; running it again finishes the round with the same result as if it had never stopped.
        Raises TrainingError if every client of the federation failed with an error.
        """
        if self.is_private and self.release is None:
            raise ConfigError("a private federation trains inside its run alone, whose folder has the secret key")
        state, round = self.resumed(state), state.round + 1
        broadcasts = self.broadcasts(state) if broadcasts is None else broadcasts
        finished = {reply.client for reply in state.pending}
        jobs = [
            Job(client, Broadcast(round, shared), state.personal[client], self.stage, self.most_bytes(client, shared))
            for client, shared in broadcasts.items()
            if client not in finished
        ]

        def judge(reply: Reply) -> Reply:
            shared = broadcasts[reply.client]
            return check_update(self._received(reply, Broadcast(round, shared)), self.expected(reply.client, shared))

        callback = on_reply and (lambda reply: on_reply(judge(reply)))
        fresh = self.engine.run_round(jobs, callback, should_stop, self.round_seconds)
        replies = tuple(sorted((*state.pending, *map(judge, fresh)), key=lambda reply: reply.client))
        if len(replies) < len(broadcasts):
            return replace(state, pending=replies), replies
        new_state, replies, incidents = self._close(state, replies, broadcasts)
        is_whole = 0 < len(replies) == len(self.clients)
        if is_whole and all(r.failure.startswith(("error", "refused")) for r in replies):
            raise TrainingError(replies[0].failure.partition(": ")[2])
        if on_incident is not None:
            for incident in incidents:
                on_incident(incident)
        return new_state, replies

    def expected(self, client: int, shared: PromptState) -> Expected:
        """Return what a reply of ``client`` must look like after the broadcast of ``shared``."""
        uploads, measures = self.method.uploads(client, shared), self.has_figures and self.method.access != "black box"
        if self.release is not None and self.engine.sums is not None:
            uploads, measures = {}, False
        return Expected(uploads, shared, self.samples.get(client), measures, self.processors.figures)

    def most_bytes(self, client: int, shared: PromptState) -> int:
        """Return how many bytes the tensors of an update of ``client`` may have after the broadcast of ``shared``."""
        return most_bytes(self.method.uploads(client, shared))

    def _received(self, reply: Reply, broadcast: Broadcast) -> Reply:
        """Return ``reply`` with its update as the method made it, and its bytes as they travelled."""
        if reply.failure:
            return reply
        if self.release is not None and self.release.is_secret and self.engine.sums is None:
            reply = replace(reply, bytes_up=0)  # its client would send its part of the sum, and no update
        if not self.processors:
            return reply
        try:
            size = sum(tensor.nbytes for tensor in reply.update.shared.values())
            if size > (most := self.most_bytes(reply.client, broadcast.shared)):
                return refused(reply, f"an update of {size:,} bytes, where {most:,} are allowed")
            update = self.processors.incoming(reply.update, broadcast)
            bytes_up = reply.update.shared.nbytes if reply.bytes_up is None else reply.bytes_up
        except ProcessorError as error:
            return refused(reply, str(error))
        except Exception as error:  # other people's code, on what may be a stranger's update
            LOG.exception("the update of client %d in round %d", reply.client, reply.round)
            return refused(reply, f"an update that cannot be read ({type(error).__name__}: {reason(error)})")
        return replace(reply, update=update, bytes_up=bytes_up)

    def _close(
        self, state: FederationState, replies: tuple[Reply, ...], broadcasts: Mapping[int, PromptState]
    ) -> tuple[FederationState, tuple[Reply, ...], list[Incident]]:
        """Merge the good ones of all of a round's ``replies``; those that do not go with the others are refused."""
        round = state.round + 1
        updates = {reply.client: reply.update for reply in replies if not reply.failure}
        if self.release is not None:
            return self._released(self.release, state, replies, list(updates.values()))
        bad = outliers(list(updates.values()), broadcasts, self.server.config.longest) if updates else {}
        good = [update for client, update in updates.items() if client not in bad]
        incidents, shared, server = [], state.shared, state.server
        minimum = math.ceil(self.quorum * len(replies) - 1e-9)  # 0.07 * 100 is a little more than 7
        if len(good) >= max(1, minimum):
            weighed = limited(good, self.max_weight_share)
            result = merge(self.server, shared, weighed, server)
            shared, server, bad = result.shared, result.server, bad | result.refused
            self._remember(result)
            incidents += [
                Incident(
                    "limited",
                    round,
                    old.client,
                    f"client {old.client} counts with {new.samples} samples of its "
                    f"{old.samples} in round {round}, lest it outweigh the others (max-weight-share)",
                )
                for old, new in zip(good, weighed, strict=True)
                if new.samples < old.samples
            ]
            if result.problem:
                why = f"round {round} leaves the shared prompt as it was: {result.problem}"
                incidents.append(Incident("unmerged", round, None, why))
        replies = tuple(refused(reply, bad[reply.client]) if reply.client in bad else reply for reply in replies)
        incidents += [Incident("refused", round, r.client, r.failure) for r in replies if r.client in bad]
        personal = update_personal(state.personal, {r.client: r.personal for r in replies if not r.failure}, round)
        return FederationState(round, shared, server, personal), replies, incidents

    def _released(
        self, release: Release, state: FederationState, replies: tuple[Reply, ...], updates: Sequence[Update]
    ) -> tuple[FederationState, tuple[Reply, ...], list[Incident]]:
        """Merge the noised mean of a round's ``updates``: they are clipped, so none is refused or outweighs others."""
        round = state.round + 1
        names = sorted(self.method.uploads(self.clients[0], self.broadcast(state, None)))
        asked = [reply.client for reply in replies]
        if release.counts_all:  # a fault may come from a client's data: then it sends no change, and is there
            faulty = (reply.client for reply in replies if reply.failure.startswith(("error", "refused")))
            updates = [*updates, *(Update(client, state.shared, 1, math.nan, math.nan) for client in faulty)]
        of_release = release.start().keys()
        memory = PromptState({name: tensor for name, tensor in state.server.items() if name in of_release})
        server = (
            PromptState({name: t for name, t in state.server.items() if name not in memory}) if memory else state.server
        )
        try:
            mean, memory = release.released(state.shared, names, updates, asked, round, memory)
            result = merge(self.server, state.shared, [mean], server)
        except SecureSumError as error:
            result = Merge(state.shared, server, problem=str(error))
        traffic = release.take_traffic()
        replies = tuple(
            replace(reply, sum_bytes_up=cost.up, sum_bytes_down=cost.down)
            if (cost := traffic.get(reply.client))
            else reply
            for reply in replies
        )
        if memory:
            result = replace(result, server=PromptState({**result.server, **memory}))
        self._remember(result)
        why = f"round {round} leaves the shared prompt as it was: {result.problem}"
        incidents = [Incident("unmerged", round, None, why)] if result.problem else []
        personal = update_personal(state.personal, {r.client: r.personal for r in replies if not r.failure}, round)
        return FederationState(round, result.shared, result.server, personal), replies, incidents

    def _remember(self, result: Merge) -> None:
        """Keep what clients would be sent after ``result``, as far as it was computed."""
        if result.broadcasts:
            sent = {client: carried(prompt, result.shared) for client, prompt in result.broadcasts.items()}
            self._computed = result.shared, result.server, sent

    def prompt(self, state: FederationState, client: int | None) -> ClientPrompt:
        """Return the prompt that ``client`` deploys now; None stands for a client that never took part."""
        personal = NO_PROMPT if client is None else prompt_of(self.resumed(state).personal[client])
        return ClientPrompt(self.deployed(state, client), personal)

    def deployed(self, state: FederationState, client: int | None) -> PromptState:
        """Return what ``client`` deploys of what it is sent."""
        return deployed(self.broadcast(state, client))

    def prompts(self, state: FederationState) -> Mapping[int, ClientPrompt]:
        """Return the prompt that each client deploys now, made on access."""
        return _Prompts(self, state)

    def broadcasts(self, state: FederationState) -> dict[int, PromptState]:
        """Return what each participant of the next round is sent, clients rising."""
        computed, result = self._computed_for(state), {}
        for client in self.participants(state.round + 1):
            computed[client] = result[client] = self.broadcast(state, client)
        return result

    def broadcast(self, state: FederationState, client: int | None) -> PromptState:
        """Return what ``client`` is sent in the next round; the server side computes it once for a state."""
        computed = self._computed_for(state)
        if client in computed:
            return computed[client]
        shared = carried(self.server.broadcast(state.shared, state.server, client), state.shared)
        if len(computed) < KEPT_BROADCASTS:
            computed[client] = shared
        return shared

    def _computed_for(self, state: FederationState) -> dict[int | None, PromptState]:
        """Return the broadcasts that were computed for this very ``state``; those of any other are let go."""
        if self._computed is None or self._computed[0] is not state.shared or self._computed[1] is not state.server:
            self._computed = state.shared, state.server, {}
        return self._computed[2]


class _Prompts(Mapping[int, ClientPrompt]):
    def __init__(self, federation: Federation, state: FederationState) -> None:
        self._federation, self._state = federation, state

    def __getitem__(self, client: int) -> ClientPrompt:
        return self._federation.prompt(self._state, client)

    def __iter__(self) -> Iterator[int]:
        return iter(self._federation.clients)

    def __len__(self) -> int:
        return len(self._federation.clients)


def round_half_up(value: float) -> int:
    """Round to the nearest integer, halves up."""
    return int(value + 0.5)
