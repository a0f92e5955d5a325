"""What an attack of malicious clients looks like, and how it takes part in the clients' work.

An attack is a test of one's own federation: it runs in the simulation alone, never at a real site. It keeps nothing
between calls, and its random numbers come from streams of the run's seed, so a run with it repeats bit for bit.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from promptfed.aggregators.base import Aggregator
from promptfed.attacks.round import Round
from promptfed.config import RunConfig, validate
from promptfed.engines.base import Worker
from promptfed.errors import ConfigError
from promptfed.first_update import first_update
from promptfed.method import Method
from promptfed.prompt_state import PromptState
from promptfed.registry import Registry
from promptfed.seeding import numpy_stream
from promptfed.types import ClientData, ClientPrompt, FederatedTask, Job, Reply

Knowledge = Literal["own update", "own data", "this round"]
NAME = "name"
"""The key of an attack's name among its options."""


class AttackConfig(BaseModel):
    """Options of every attack: frozen, and unknown names are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    malicious: float = Field(0.2, ge=0, lt=1, description="share of malicious clients, at least one; 0: none")
    start: int = Field(1, ge=1, description="first round of the attack; until then all are honest")


@dataclass(frozen=True)
class Scene:
    """What malicious clients know before round 1: the method with its public model, and what they hold.

    Attributes:
        method: The run's method.
        task: The data. An attack reads those of ``malicious`` clients alone.
        malicious: The malicious clients.
    """

    method: Method
    task: FederatedTask
    malicious: frozenset[int]

    @property
    def seed(self) -> int:
        """The run's seed."""
        return self.method.setup.seed


class Attack:
    """What malicious clients do to their data and to their updates; by default nothing.

    A new attack is a class with an ``AttackConfig``, registered by ``@ATTACKS.register("name")``.
    """

    Config: ClassVar[type[AttackConfig]] = AttackConfig
    knows: ClassVar[Knowledge] = "own update"
    """What a malicious client sees: its own honest update, its own data, or the updates of this round."""

    def __init__(self, config: AttackConfig) -> None:
        self.config = config

    def check(self, method: Method, task: FederatedTask, example: PromptState, sent: PromptState) -> None:
        """Raise ConfigError if the attack cannot act here; ``example`` is an update after the broadcast ``sent``."""

    def data(self, data: ClientData, scene: Scene) -> ClientData:
        """Return what a malicious client trains on in the place of ``data``."""
        return data

    def reply(self, reply: Reply, job: Job, round: Round) -> Reply:
        """Return what a malicious client sends in the place of its honest ``reply`` to ``job``."""
        return reply

    def figures(self, prompts: Mapping[str, ClientPrompt], scene: Scene) -> dict[str, Any]:
        """Return the attack's own measure of success; none by default, where accuracy says it.

        Args:
            prompts: "trained", what a client that never took part deploys after the run, and "start", before it.
            scene: The method and the data.
        """
        return {}


ATTACKS: Registry[type[Attack]] = Registry("attack", "promptfed.attacks", group="promptfed.attacks")


class Adversary:
    """The malicious clients of a run: what ``ClientWorker`` lets them do to their data and replies.

    Attributes:
        attack: What they do.
        clients: Who they are.
    """

    def __init__(self, attack: Attack, scene: Scene) -> None:
        self.attack, self.scene, self.clients = attack, scene, scene.malicious
        self._data: dict[int, tuple[ClientData, ClientData]] = {}

    def check(self, aggregator: Aggregator) -> None:
        """Raise ConfigError if the attack cannot act on what the method sends."""
        method = self.scene.method
        sent, example = first_update(method, aggregator, 0)
        self.attack.check(method, self.scene.task, example, sent)

    def data(self, data: ClientData, round: int) -> ClientData:
        """Return what the client of ``data`` trains on in ``round``."""
        if data.client not in self.clients or round < self.attack.config.start:
            return data
        honest, poisoned = self._data.get(data.client, (None, data))
        if honest is not data:  # made once, as features are looked up by the object
            poisoned = self.attack.data(data, self.scene)
            self._data[data.client] = data, poisoned
        return poisoned

    def replies(self, jobs: Sequence[Job], replies: Sequence[Reply]) -> list[Reply]:
        """Return what leaves the clients in the place of ``replies``. A failure stays a failure."""
        return attacked(self.attack, self.clients, self.scene.seed, jobs, replies)

    def measured(self, trained: ClientPrompt, start: ClientPrompt) -> dict[str, Any]:
        """Return what metrics.json says of the attack, its own figures included."""
        config = self.attack.config
        return {
            "knows": self.attack.knows,
            "malicious": sorted(self.clients),
            "clients": len(list(self.scene.task.summaries())),
            "options": config.model_dump(mode="json"),
            **self.attack.figures({"trained": trained, "start": start}, self.scene),
        }


def attacked(
    attack: Attack, clients: Collection[int], seed: int, jobs: Sequence[Job], replies: Sequence[Reply]
) -> list[Reply]:
    """Return ``replies`` with those of ``clients`` as ``attack`` makes them."""
    if not any(reply.client in clients and not reply.failure for reply in replies):
        return list(replies)
    round = Round.of(jobs, replies, frozenset(clients), seed)
    return [
        attack.reply(reply, job, round)
        if reply.client in clients and not reply.failure and reply.round >= attack.config.start
        else reply
        for reply, job in zip(replies, jobs, strict=True)
    ]


def poisoned(worker: Worker, attack: Attack, clients: Collection[int], seed: int = 0) -> Worker:
    """``worker``, with ``clients`` whose replies are what ``attack`` makes of them. A failure stays a failure."""
    return lambda jobs: attacked(attack, clients, seed, jobs, worker(jobs))


def malicious_clients(clients: Iterable[int], share: float, seed: int) -> frozenset[int]:
    """Return the malicious ones of ``clients``: ``share`` of them rounded, at least one, and none for a share of 0.

    They come from the stream (seed, "malicious"), so the same seed has the same ones, whatever they do.
    """
    everyone = sorted(clients)
    if not share or not everyone:
        return frozenset()
    count = min(max(1, int(share * len(everyone) + 0.5)), max(1, len(everyone) - 1))
    chosen = numpy_stream(seed, "malicious").choice(np.array(everyone), count, replace=False)
    return frozenset(int(client) for client in chosen)


def checked_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the run's attack options with all defaults filled in, {} for no attack.

    Raises:
        ConfigError: The attack or an option is unknown, or options stand there without a name.
    """
    if not options:
        return {}
    if not isinstance(name := options.get(NAME), str):
        raise ConfigError(f"options of an attack need its name: --set attack.name=NAME, one of {', '.join(ATTACKS)}")
    own = {key: value for key, value in options.items() if key != NAME}
    return {NAME: name, **validate(ATTACKS[name].Config, own, "attack option").model_dump()}


def build_attack(name: str, options: Mapping[str, Any] | None = None) -> Attack:
    """Return the attack called ``name``.

    Raises:
        ConfigError: The name or an option is unknown, or an option has a bad value.
    """
    kind = ATTACKS[name]
    return kind(validate(kind.Config, options or {}, "attack option"))


def check_attack(config: RunConfig, method: type[Method]) -> None:
    """Raise ConfigError for an attack that needs another engine, or a method that trains nothing."""
    if not config.attack_options:
        return
    name = config.attack_options[NAME]
    if method.trains.startswith("nothing"):
        raise ConfigError(
            f"attack '{name}' acts on what clients train, and method '{config.method}' trains nothing: leave it out"
        )
    if ATTACKS[name].knows == "this round" and config.engine != "local":
        raise ConfigError(
            f"attack '{name}' knows the updates of its round, which the processes of engine '{config.engine}' do not "
            "see of each other: use --engine local"
        )


def clients_together(config: RunConfig, task: FederatedTask) -> int:
    """Return how many clients are trained side by side for the attack: all, if it knows the updates of a round."""
    name = config.attack_options.get(NAME)
    return len(task.clients) if name is not None and ATTACKS[name].knows == "this round" else 1


def check_without_attack(config: RunConfig) -> None:
    """Raise ConfigError if ``config`` has an attack, which no real site takes part in."""
    if config.attack_options:
        raise ConfigError(
            f"attack '{config.attack_options.get(NAME)}' is a simulation in one's own process: a run over sites has "
            "none, so leave out attack.name"
        )


def adversary_of(options: Mapping[str, Any], method: Method, task: FederatedTask) -> Adversary | None:
    """Return the malicious clients that the run's ``options`` describe; None for a run without an attack."""
    if not options:
        return None
    attack = build_attack(options[NAME], {key: value for key, value in options.items() if key != NAME})
    clients = [summary.client for summary in task.summaries()]
    malicious = malicious_clients(clients, attack.config.malicious, method.setup.seed)
    return Adversary(attack, Scene(method, task, malicious))
