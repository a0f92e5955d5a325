"""Fed-BDPL: clients learn tables of token probabilities, the server averages them (Wang et al., ICML 2025)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from pydantic import Field

from promptfed.blackbox.base import ClientOracle
from promptfed.blackbox.oracles.query import Candidate
from promptfed.blackbox.search.policy_gradient import PolicyGradient, Step, Variant, uniform_table
from promptfed.blackbox.tokens.base import TAG, TokenPromptConfig, TokenPromptMethod
from promptfed.method import METHODS, MethodConfig, Shape, shapes
from promptfed.prompt_state import PromptState
from promptfed.seeding import numpy_stream
from promptfed.types import Broadcast, ClientData


class FedBDPLConfig(TokenPromptConfig):
    """Fed-BDPL's options. The paper has n_tokens=20, candidates=200, samples=20, lr 1e-4 to 5e-3."""

    blank: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="probability of the blank before round 1, at each position; 0: all are equally likely",
    )
    samples: int = Field(10, ge=2, description="prompts drawn for one step; fewer if the allowance is short")
    lr: float = Field(0.2, gt=0, description="step size; a probability moves by about as much with adamw")
    step: Step = Field("adamw", description="how a client steps; adamw begins anew every round")
    variant: Variant = Field("bdpl", description="form of the derivative of log P; they differ by a factor")
    clip: float = Field(3.0, gt=0, description="largest norm of the gradient")
    floor: float = Field(0.0, ge=0, description="least probability of a token")
    active_clients: int | None = Field(
        None, ge=1, description="clients that work in a round, whatever the participation; 1: FedOne"
    )


@METHODS.register("fedbdpl")
class FedBDPL(TokenPromptMethod):
    """Each position of the prompt has a categorical distribution over the candidate tokens.

    A client draws prompts, scores them on one batch, and takes a variance-reduced policy gradient step on its table, as
    often as its budget allows; the server takes the mean by samples, whose rows are distributions again.

    Shared: ``table`` ``(n_tokens, candidates)`` float32, rows on the simplex; downwards also the vocabulary's tag.
    Personal: nothing. Deployed: the most probable token of each position.

    FedOne: with ``active_clients=1`` one client works in each round, drawn from the run's stream. A round then costs
    a K-th of the queries, so compare it with K times the rounds.

    Different from the paper: the candidates are public, not PMI n-grams of the training texts; the first tables favour
    the blank, so that few queries need not undo random words first; the last round's table is deployed, not the best
    one by validation. The Gumbel-softmax form of the table is not here.
    """

    name: ClassVar[str] = "Fed-BDPL"
    paper: ClassVar[str] = "BDPL: Diao et al. 2023, TMLR, arXiv 2201.08531; FedOne: Wang et al. 2025, ICML, 2506.14929"
    trains: ClassVar[str] = "token probabilities (n_tokens, candidates)"
    aggregators: ClassVar[tuple[str, ...]] = (
        "mean", "uniform", "geometric_median", "krum", "multi_krum", "norm_clip",
    )  # fmt: skip
    """Aggregators that return a weighted mean of the tables: only they keep the rows distributions."""
    Config: ClassVar[type[MethodConfig]] = FedBDPLConfig
    config: FedBDPLConfig

    def init_shared(self) -> PromptState:
        table = torch.from_numpy(uniform_table(self.config.n_tokens, len(self.vocabulary)))
        if self.config.blank:
            table[:, 1:] = (1 - self.config.blank) / (len(self.vocabulary) - 1)
            table[:, 0] = self.config.blank
        return PromptState({"table": table, TAG: self.vocabulary.tag})

    def uploads(self, client: int, sent: PromptState) -> Mapping[str, Shape]:
        return shapes(sent, ["table"])

    def participants(self, round: int, drawn: Sequence[int], clients: Sequence[int]) -> Sequence[int]:
        """Return those drawn by the run's participation, or ``active_clients`` of all."""
        if self.config.active_clients is None:
            return drawn
        count = min(self.config.active_clients, len(clients))
        stream = numpy_stream(self.setup.seed, "active clients", round)
        return [int(client) for client in stream.choice(sorted(clients), count, replace=False)]

    def step_queries(self, data: ClientData) -> int:
        return 2 * self.batch_of(data)

    def search(
        self, broadcast: Broadcast, data: ClientData, personal: PromptState, desk: ClientOracle
    ) -> tuple[PromptState, PromptState]:
        self.check_agreed(broadcast.shared)
        local = PolicyGradient(
            broadcast.shared["table"].double().numpy(),
            desk.stream,
            samples=self.config.samples,
            lr=self.config.lr,
            step=self.config.step,
            variant=self.config.variant,
            clip=self.config.clip,
            floor=self.config.floor,
        )
        count = min(self.config.samples, max(2, desk.left // min(self.config.batch_size, len(data.train))))
        while not local.stop():
            draws, rows = local.ask(count), desk.batch()
            if not desk.affords(len(set(draws)), rows):
                break
            local.tell(draws, self.losses(desk, draws, rows).tolist())
        return PromptState({"table": torch.from_numpy(local.table)}), personal

    def candidate(self, shared: PromptState, personal: PromptState) -> Candidate:
        return self.prompt(shared["table"].argmax(1).tolist())
