"""Fed-SB and RAVAN: frozen A and B, and small square matrices between them, whose mean is exact."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field

from promptfed.aggregators.base import Aggregator
from promptfed.errors import ConfigError
from promptfed.inserts.low_rank import A, B, factor_name
from promptfed.inserts.square_low_rank import FACTOR, FROZEN, R, SquareLowRank
from promptfed.local_training import LocalObjective
from promptfed.method import METHODS, Shape, TrainingJob, shapes
from promptfed.methods.fedsb.subspace import SKETCH, FirstGradient, mean_gradient
from promptfed.prompt_state import PromptState
from promptfed.prompts.low_rank_method import LowRankConfig, LowRankMethod
from promptfed.setup import Setup
from promptfed.types import Broadcast, ClientData, Update

SETUP_ROUNDS = 2


class FedSBConfig(LowRankConfig):
    """Options of the square matrices, and of what stands around them."""

    lr: float = Field(0.01, gt=0, description="learning rate")
    heads: int = Field(1, ge=1, le=64, description="square matrices of each layer; more than one is RAVAN")
    factors: Literal["gradient", "random"] = Field(
        "gradient",
        description="A and B: from the singular vectors of the clients' mean first gradient, which takes two rounds, "
        "or drawn from the seed, so that they never travel",
    )


@METHODS.register("fedsb")
class FedSB(LowRankMethod):
    """``W + s B R A``: clients train R ``(r, r)`` of each target matrix, in the frame of frozen orthonormal A and B.

    Shared: ``lora_R`` ``(heads, r, r)``. With ``factors=gradient`` also A ``(r, in)`` and B ``(out, r)``, sent down and
    never up again: rounds 1 and 2 send ``G A0^T`` and ``Q^T G`` of the clients' first gradients G, whose means give the
    server the leading singular vectors of the mean gradient (a randomised SVD; no client shows G itself). The mean of
    the products is the product with the mean of R. With ``heads`` > 1 it is RAVAN: a client also trains a factor of
    each head, starting from 1, and sends ``s_i H_i``.
    Different from the papers: Fed-SB takes the gradient on one machine and starts R at its singular values, here R is
    zero, so that the start is the frozen model; the scale is alpha / r. RAVAN's A and B are random
    (``factors=random``); here heads may also stand on singular vectors.
    """

    name: ClassVar[str] = "Fed-SB"
    paper: ClassVar[str] = "Singhal et al. 2025, arXiv 2502.15436; RAVAN: Raje et al. 2025, NeurIPS"
    trains: ClassVar[str] = "R (heads, r, r) for each target matrix"
    aggregators: ClassVar[tuple[str, ...]] = ("mean", "uniform")
    Config = FedSBConfig
    config: FedSBConfig
    kind: SquareLowRank

    def __init__(self, config: FedSBConfig, setup: Setup) -> None:
        super().__init__(config, setup)
        if config.factors == "gradient" and setup.rounds <= SETUP_ROUNDS:
            raise ConfigError(
                f"option 'factors' is 'gradient', which takes {SETUP_ROUNDS} rounds before the first that trains, and "
                f"there are {setup.rounds}: use --rounds {SETUP_ROUNDS + 1} or more, or --set method.factors=random"
            )

    def make_kind(self) -> SquareLowRank:
        return self.make_factors(SquareLowRank, heads=self.config.heads)

    def init_shared(self) -> PromptState:
        if self.config.factors == "random":
            return self.start()
        sketches = {
            factor_name(path, B, SKETCH): torch.zeros(out, self.kind.rank)
            for path, (out, _) in self.kind.shapes.items()
        }
        return PromptState({**sketches, **self.head.start()})

    def values(self, shared: PromptState, personal: PromptState) -> PromptState:
        return shared if self.config.factors == "gradient" else PromptState({**self.kind.random_factors, **shared})

    # --------------------------------------------------------------------------------------------- training

    def problem(self, broadcast: Broadcast, data: ClientData, personal: PromptState) -> LocalObjective:
        if is_setup(broadcast.shared):
            raise ConfigError(f"{self.name} has no factors A and B before round {SETUP_ROUNDS} is over: finish the run")
        values = dict(self.values(broadcast.shared, personal))
        if self.config.heads > 1:
            values |= {factor_name(path, FACTOR): torch.ones(self.config.heads) for path in self.kind.paths}
        names = [name for name in values if not name.startswith(FROZEN)]
        return self.objective(PromptState(values), data.train, names)

    def split_update(
        self, trained: PromptState, broadcast: Broadcast, data: ClientData, personal: PromptState
    ) -> tuple[PromptState, PromptState]:
        """Multiply each head by its factor, and send the product."""
        products = {name: tensor for name, tensor in trained.items() if not name.endswith(FACTOR)}
        for path in self.kind.paths if self.config.heads > 1 else ():
            products[factor_name(path, R)] *= trained[factor_name(path, FACTOR)][:, None, None]
        return PromptState(products), personal

    def train_many(self, jobs: Sequence[TrainingJob]) -> list[tuple[Update, PromptState]]:
        if not jobs or not is_setup(jobs[0][0].shared):
            return super().train_many(jobs)
        return [(mean_gradient(self, broadcast.shared, data), personal) for broadcast, data, personal in jobs]

    def trained_names(self, round: int, values: PromptState) -> Collection[str]:
        return [name for name in values if not name.startswith((FROZEN, SKETCH))]

    def uploads(self, client: int, sent: PromptState) -> Mapping[str, Shape]:
        if not is_setup(sent):
            return shapes(sent, self.trained_names(0, sent))
        has_a = any(name.startswith(SKETCH) and name.endswith(A) for name in sent)
        return shapes(sent, [n for n in sent if n.startswith(SKETCH) and n.endswith(A if has_a else B)])

    def server_side(self, aggregator: Aggregator) -> Aggregator:
        return FirstGradient(aggregator, self.kind)


def is_setup(shared: Mapping[str, object]) -> bool:
    """Whether A and B are still looked for."""
    return any(name.startswith(SKETCH) for name in shared)
