"""Attacks that send another vector in the place of the honest change ``d = theta_i - theta``, or false numbers.

Those that look at others' updates are in collusion.py.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import torch
from pydantic import Field

from promptfed.attacks.base import ATTACKS, Attack, AttackConfig
from promptfed.attacks.round import Round, changing_names, sends_change
from promptfed.errors import ConfigError
from promptfed.method import Method
from promptfed.prompt_state import PromptState
from promptfed.types import FederatedTask, Job, Reply


class ChangeAttack(Attack):
    """An attack on the change of a prompt, which needs an update that is one."""

    def check(self, method: Method, task: FederatedTask, example: PromptState, sent: PromptState) -> None:
        if not changing_names(example, sent):
            raise ConfigError(
                f"this attack replaces the change of a prompt, and {method.name} sends "
                f"{', '.join(example) or 'nothing'}, which is no change of real numbers from the broadcast: use "
                "labelflip, weightlie or another method"
            )


class FactorConfig(AttackConfig):
    """Options of attacks that stretch the honest change."""

    strength: float = Field(5.0, gt=0, allow_inf_nan=False, description="length in honest changes")


@ATTACKS.register("signflip")
class SignFlip(ChangeAttack):
    """Send the honest change reversed: ``-s d``."""

    Config: ClassVar[type[FactorConfig]] = FactorConfig
    config: FactorConfig

    def reply(self, reply: Reply, job: Job, round: Round) -> Reply:
        return sends_change(reply, job, -self.config.strength * round.changes[reply.client])


class ScaleConfig(FactorConfig):
    """Options of ``scale``."""

    strength: float = Field(100.0, gt=0, allow_inf_nan=False, description="length in honest changes")


@ATTACKS.register("scale")
class Scale(ChangeAttack):
    """Send the honest change ``s`` times as long, so that the client owns the mean: model replacement."""

    Config: ClassVar[type[ScaleConfig]] = ScaleConfig
    config: ScaleConfig

    def reply(self, reply: Reply, job: Job, round: Round) -> Reply:
        return sends_change(reply, job, self.config.strength * round.changes[reply.client])


class GaussianConfig(FactorConfig):
    """Options of ``gaussian``."""

    strength: float = Field(10.0, gt=0, allow_inf_nan=False, description="length in honest changes")


@ATTACKS.register("gaussian")
class Gaussian(ChangeAttack):
    """Send Gaussian noise in the place of the change, ``s`` times as long as the honest one."""

    Config: ClassVar[type[GaussianConfig]] = GaussianConfig
    config: GaussianConfig

    def reply(self, reply: Reply, job: Job, round: Round) -> Reply:
        own = round.changes[reply.client]
        noise = torch.from_numpy(round.stream("gaussian", reply.client).standard_normal(len(own)))
        return sends_change(reply, job, noise * (self.config.strength * own.norm() / noise.norm()))


class ConstantConfig(AttackConfig):
    """Options of ``constant``."""

    value: float = Field(1e6, allow_inf_nan=False, description="what stands in the place of every number")


@ATTACKS.register("constant")
class Constant(Attack):
    """Send a prompt in which every number is the same."""

    Config: ClassVar[type[AttackConfig]] = ConstantConfig

    @property
    def value(self) -> float:
        """What stands in the place of every number."""
        assert isinstance(self.config, ConstantConfig)
        return self.config.value

    def reply(self, reply: Reply, job: Job, round: Round) -> Reply:
        shared = reply.update.shared.map(lambda t: torch.full_like(t, self.value) if t.is_floating_point() else t)
        return replace(reply, update=replace(reply.update, shared=shared))


@ATTACKS.register("zero")
class Zero(Constant):
    """Send a prompt of zeros."""

    Config: ClassVar[type[AttackConfig]] = AttackConfig
    value = 0.0
