"""FedAvg-BBT: clients run BBT from the server's vector, the server averages their results (FedBPT's baseline)."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field

from promptfed.blackbox.base import BlackBoxMethod, ClientOracle
from promptfed.blackbox.oracles.query import Candidate
from promptfed.blackbox.search.cma_es import CmaEs
from promptfed.blackbox.soft.projection import Projection, SoftPromptConfig, vector
from promptfed.method import METHODS, MethodConfig
from promptfed.prompt_state import PromptState
from promptfed.setup import Setup
from promptfed.types import Broadcast, ClientData


class FedAvgBBTConfig(SoftPromptConfig):
    """FedAvg-BBT's options."""

    popsize: int = Field(5, ge=2, description="prompts in one generation of a client's CMA-ES")


@METHODS.register("fedavg_bbt")
class FedAvgBBT(BlackBoxMethod):
    """Every client continues its own CMA-ES from the shared ``z`` and returns the mean at the end.

    Shared: ``z`` ``(dim,)``, merged by the run's aggregator. Personal: the search's ``sigma`` ``(1,)`` and
    ``deviations`` ``(dim,)``, which go on from round to round; its paths begin afresh, as the mean has been replaced.
    """

    name: ClassVar[str] = "FedAvg-BBT"
    paper: ClassVar[str] = "BBT (Sun et al. 2022, arXiv 2201.03514) averaged; a baseline of FedBPT, arXiv 2310.01467"
    trains: ClassVar[str] = "search vector z (dim,)"
    requires: ClassVar[frozenset[str]] = frozenset({"soft prompts"})
    Config: ClassVar[type[MethodConfig]] = FedAvgBBTConfig
    config: FedAvgBBTConfig

    def __init__(self, config: FedAvgBBTConfig, setup: Setup) -> None:
        super().__init__(config, setup)
        self.projection = Projection(config, self.oracle.soft, setup.seed)

    def init_shared(self) -> PromptState:
        return PromptState({"z": torch.zeros(self.config.dim)})

    def init_personal(self, client: int) -> PromptState:
        return PromptState({"sigma": torch.tensor([self.config.sigma]), "deviations": torch.ones(self.config.dim)})

    def step_queries(self, data: ClientData) -> int:
        return self.config.popsize * self.batch_of(data)

    def search(
        self, broadcast: Broadcast, data: ClientData, personal: PromptState, desk: ClientOracle
    ) -> tuple[PromptState, PromptState]:
        local = CmaEs(
            broadcast.shared["z"].double().numpy(),
            personal["sigma"].item(),
            desk.stream,
            popsize=self.config.popsize,
            deviations=personal["deviations"].double().numpy(),
        )
        while desk.affords(self.config.popsize) and not local.stop():
            points = local.ask()
            prompts = [self.projection.candidate(vector(point)) for point in points]
            local.tell(points, desk.losses(prompts, desk.batch()).tolist())
        search_state = PromptState({"sigma": torch.tensor([local.sigma]), "deviations": vector(local.deviations)})
        return PromptState({"z": vector(local.mean)}), search_state

    def candidate(self, shared: PromptState, personal: PromptState) -> Candidate:
        return self.projection.candidate(shared["z"])
