"""Clients that send without having trained, several times, or with a false weight."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Literal

import torch
from pydantic import Field

from promptfed.attacks.base import ATTACKS, Attack, AttackConfig, Knowledge
from promptfed.attacks.round import Round, change_of, sends_change
from promptfed.attacks.vector import ChangeAttack
from promptfed.processors.client_state import joined, states_of
from promptfed.types import NO_PROMPT, Job, Reply

STATE = "freerider"
"""Under this name a free rider keeps the prompt that it was last sent, beside the states of processors."""


class FreeRiderConfig(AttackConfig):
    """Options of ``freerider``."""

    how: Literal["unchanged", "noise", "replay"] = Field(
        "unchanged", description="what is sent: the prompt as it came, with noise, or with the last step again"
    )
    noise: float = Field(1.0, gt=0, allow_inf_nan=False, description="length of the noise in honest changes")


@ATTACKS.register("freerider")
class FreeRider(ChangeAttack):
    """Send what was received, so as to get the prompt without work (Fraboni et al. 2021).

    ``noise``: plus Gaussian noise, to look like work. ``replay``: plus ``theta_t - theta_{t-1}``, the step of the
    federation since it was last sent something. It still trains here, and says its honest loss.
    """

    Config: ClassVar[type[FreeRiderConfig]] = FreeRiderConfig
    config: FreeRiderConfig

    def reply(self, reply: Reply, job: Job, round: Round) -> Reply:
        own = round.changes[reply.client]
        if self.config.how == "unchanged":
            return sends_change(reply, job, torch.zeros_like(own))
        if self.config.how == "noise":
            noise = torch.from_numpy(round.stream("freerider", reply.client).standard_normal(len(own)))
            return sends_change(reply, job, noise * (self.config.noise * own.norm() / noise.norm()))
        sent, before = job.broadcast.shared, states_of(job.personal).get(STATE, NO_PROMPT)
        step = change_of(sent, before) if before.mismatch(sent) is None else torch.zeros_like(own)
        step = step if len(step) == len(own) else torch.zeros_like(own)
        remembering = joined(reply.personal, {STATE: sent})
        return replace(sends_change(reply, job, step), personal=remembering)


class SybilConfig(AttackConfig):
    """Options of ``sybil``."""

    strength: float = Field(1.0, gt=0, allow_inf_nan=False, description="length in the leader's honest changes")
    jitter: float = Field(0.05, ge=0, allow_inf_nan=False, description="length of each copy's own noise")
    reverse: bool = Field(True, description="whether the leader's change is sent reversed")


@ATTACKS.register("sybil")
class Sybil(ChangeAttack):
    """Send copies of one update with a little noise each: one attacker under several names.

    The leader is the malicious client with the lowest number.
    """

    Config: ClassVar[type[SybilConfig]] = SybilConfig
    knows: ClassVar[Knowledge] = "this round"
    config: SybilConfig

    def reply(self, reply: Reply, job: Job, round: Round) -> Reply:
        own = round.changes[reply.client]
        leader = next(c for c in (*round.group, reply.client) if len(round.changes[c]) == len(own))
        change = (-1 if self.config.reverse else 1) * self.config.strength * round.changes[leader]
        noise = torch.from_numpy(round.stream("sybil", reply.client).standard_normal(len(own)))
        return sends_change(reply, job, change + noise * (self.config.jitter * change.norm() / noise.norm()))


class WeightLieConfig(AttackConfig):
    """Options of ``weightlie``."""

    samples: int = Field(10**9, ge=1, description="how many training examples the client says it has")
    strength: float = Field(1.0, allow_inf_nan=False, description="length in honest changes; below 0: reversed")


@ATTACKS.register("weightlie")
class WeightLie(Attack):
    """Claim more training examples than the client has, so as to own a weighted mean."""

    Config: ClassVar[type[WeightLieConfig]] = WeightLieConfig
    config: WeightLieConfig

    def reply(self, reply: Reply, job: Job, round: Round) -> Reply:
        if self.config.strength != 1:
            reply = sends_change(reply, job, self.config.strength * round.changes[reply.client])
        return replace(reply, update=replace(reply.update, samples=self.config.samples))
