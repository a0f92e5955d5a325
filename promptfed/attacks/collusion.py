"""Attacks that compute with the updates of their round: ALIE, IPM, min-max, min-sum, mimic.

``mu`` and ``sigma`` are mean and sample standard deviation over the changes that the attackers know. In the local
engine these are the honest clients' of this very round; ``knows: group`` leaves them their own honest changes. All
malicious clients of a round send the same vector.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from statistics import NormalDist
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from promptfed.attacks.base import ATTACKS, AttackConfig, Knowledge
from promptfed.attacks.round import Round, sends_change
from promptfed.attacks.vector import ChangeAttack
from promptfed.types import Job, Reply


class CollusionConfig(AttackConfig):
    """Options of attacks that compute with others' updates."""

    knows: Literal["round", "group"] = Field(
        "round", description="whose updates they compute with: the honest clients', or the malicious group's own"
    )


class Collusion(ChangeAttack):
    """An attack of several clients that send one vector, made of changes that they know."""

    Config: ClassVar[type[AttackConfig]] = CollusionConfig
    knows: ClassVar[Knowledge] = "this round"
    config: CollusionConfig

    @abstractmethod
    def vector(self, known: Tensor, clients: int, malicious: int) -> Tensor:
        """Return what is sent ``(d,)``.

        Args:
            known: Changes ``(n, d)`` to compute with.
            clients: The clients of the round.
            malicious: The malicious ones among them.
        """

    def reply(self, reply: Reply, job: Job, round: Round) -> Reply:
        known = round.known(reply.client, group_only=self.config.knows == "group")
        return sends_change(reply, job, self.vector(known, len(round.changes), len(round.group)))


class AlieConfig(CollusionConfig):
    """Options of ``alie``."""

    z: float | None = Field(None, ge=0, allow_inf_nan=False, description="standard deviations [the paper's z_max]")


@ATTACKS.register("alie")
class Alie(Collusion):
    """A little is enough: ``mu - z sigma``, within the spread of honest clients (Baruch et al. 2019)."""

    Config: ClassVar[type[AlieConfig]] = AlieConfig
    config: AlieConfig

    def vector(self, known: Tensor, clients: int, malicious: int) -> Tensor:
        z = z_max(clients, malicious) if self.config.z is None else self.config.z
        return known.mean(0) - z * deviation(known)


class IpmConfig(CollusionConfig):
    """Options of ``ipm``."""

    strength: float = Field(5.0, gt=0, allow_inf_nan=False, description="length in mean honest changes")


@ATTACKS.register("ipm")
class Ipm(Collusion):
    """Inner product manipulation: ``-s mu`` (Xie et al. 2019)."""

    Config: ClassVar[type[IpmConfig]] = IpmConfig
    config: IpmConfig

    def vector(self, known: Tensor, clients: int, malicious: int) -> Tensor:
        return -self.config.strength * known.mean(0)


class DirectionConfig(CollusionConfig):
    """Options of ``minmax`` and ``minsum``."""

    direction: Literal["unit", "sign", "std"] = Field(
        "unit", description="where to move away from mu: -mu/|mu|, -sign mu or -sigma"
    )


class Spread(Collusion):
    """Move away from the mean of the honest changes, as far as their own spread hides: ``mu + gamma p``."""

    Config: ClassVar[type[DirectionConfig]] = DirectionConfig
    config: DirectionConfig

    def vector(self, known: Tensor, clients: int, malicious: int) -> Tensor:
        mean, direction = known.mean(0), away(known, self.config.direction)
        square = direction.square().sum()
        return mean + self.gamma(known, mean, direction, square) * direction if square else mean

    @abstractmethod
    def gamma(self, known: Tensor, mean: Tensor, direction: Tensor, square: Tensor) -> Tensor:
        """Return how far; ``square`` is the squared length of ``direction``, which is not zero."""


@ATTACKS.register("minmax")
class MinMax(Spread):
    """As far from the mean as no honest client notices: no farther from any than two honest ones are apart.

    ``mu + gamma p`` with the largest gamma for which ``max_i |x - d_i| <= max_ij |d_i - d_j|`` (Shejwalkar and
    Houmansadr 2021). Each client allows the gamma that solves a quadratic; the smallest is taken, where the paper
    halves intervals.
    """

    def gamma(self, known: Tensor, mean: Tensor, direction: Tensor, square: Tensor) -> Tensor:
        gaps = mean - known
        radius = torch.cdist(known, known, compute_mode="donot_use_mm_for_euclid_dist").max()
        half = gaps @ direction
        inside = (half.square() - square * (gaps.square().sum(1) - radius.square())).clamp(min=0)
        return ((inside.sqrt() - half) / square).min().clamp(min=0)


@ATTACKS.register("minsum")
class MinSum(Spread):
    """As far from the mean that its squared distances to honest clients sum to no more than an honest client's.

    ``mu + gamma p`` with the largest gamma for which ``sum_i |x - d_i|^2 <= max_i sum_j |d_i - d_j|^2`` (Shejwalkar
    and Houmansadr 2021). As the gaps to the mean sum to zero, gamma is a square root.
    """

    def gamma(self, known: Tensor, mean: Tensor, direction: Tensor, square: Tensor) -> Tensor:
        most = torch.cdist(known, known, compute_mode="donot_use_mm_for_euclid_dist").square().sum(1).max()
        spare = (most - (known - mean).square().sum()).clamp(min=0)
        return (spare / (len(known) * square)).sqrt()


class MimicConfig(CollusionConfig):
    """Options of ``mimic``."""

    index: int = Field(0, ge=0, description="whom of those they know, counted from 0")


@ATTACKS.register("mimic")
class Mimic(Collusion):
    """Send the change of one honest client, who then counts several times (Karimireddy et al. 2022).

    The paper looks for the client whose copies hurt most; here it is the one that ``index`` says.
    """

    Config: ClassVar[type[MimicConfig]] = MimicConfig
    config: MimicConfig

    def vector(self, known: Tensor, clients: int, malicious: int) -> Tensor:
        return known[self.config.index % len(known)]


def deviation(known: Tensor) -> Tensor:
    """Return the sample standard deviation ``(d,)`` of ``known`` ``(n, d)``; zeros for a single row."""
    return known.std(0) if len(known) > 1 else torch.zeros_like(known[0])


def z_max(clients: int, malicious: int) -> float:
    """Return ALIE's ``Phi^-1((n - m - s) / (n - m))`` with ``s = floor(n/2 + 1) - m`` supporters, at least one.

    It is 0 for 10 clients with 2 malicious ones: with few clients the attack has no room.
    """
    honest = clients - malicious
    supporters = max(1, math.floor(clients / 2 + 1) - malicious)
    share = (honest - supporters) / honest if honest else 0.0
    return NormalDist().inv_cdf(share) if share > 0 else 0.0


def away(known: Tensor, direction: str) -> Tensor:
    """Return the direction ``(d,)`` in which minmax and minsum leave the mean of ``known``."""
    mean = known.mean(0)
    if direction == "std":
        return -deviation(known)
    if direction == "sign":
        return -mean.sign()
    length = mean.norm()
    return -mean / length if length else torch.zeros_like(mean)
