"""One client's SPSA-GC in one round: options, gains that fall over rounds, and the budget."""

from __future__ import annotations

from pydantic import Field

from promptfed.blackbox.base import ClientOracle
from promptfed.blackbox.search.base import Vector
from promptfed.blackbox.search.spsa import Spsa
from promptfed.blackbox.soft.input_edit import EditConfig


class DescentConfig(EditConfig):
    """Options of an edit of the input that SPSA-GC trains.

    Spall's usual exponents 0.602 and 0.101 are fixed, and so is his A: a tenth of all steps.
    """

    lr: float = Field(3.0, gt=0, description="SPSA's step size in round 1; later ones fall as (k + A)^-0.602")
    c: float = Field(0.3, gt=0, description="SPSA's perturbation of a weight in round 1; later ones fall as k^-0.101")
    probes: int = Field(2, ge=1, description="pairs of perturbations that are averaged in a step")
    beta: float = Field(0.5, ge=0, lt=1, description="momentum of SPSA-GC; 0: plain SPSA")
    clip: float = Field(5.0, gt=0, description="bound on the norm of an estimated gradient")


def descent(config: DescentConfig, start: Vector, desk: ClientOracle, rounds: int) -> Spsa:
    """Return SPSA-GC from ``start`` ``(d,)`` in the round of ``desk``, of ``rounds``, without momentum yet.

    The step number k counts what the client would have made in earlier rounds with the same allowance, so that the
    gains need no memory and clients that were away are no different from others.
    """
    steps = max(1, desk.left // (2 * config.probes * min(config.batch_size, len(desk.data.train))))  # of a round
    stability = 0.1 * steps * rounds
    return Spsa(
        start,
        desk.stream,
        a=config.lr * (1 + stability) ** 0.602,
        c=config.c,
        stability=stability,
        probes=config.probes,
        beta=config.beta,
        clip=config.clip,
        k=steps * (desk.round - 1),
    )
