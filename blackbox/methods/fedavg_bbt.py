"""FedAvg-BBT: clients run BBT from the server's vector, the server averages what they find (FedBPT's baseline)."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from promptfed.blackbox.candidate import Candidate
from promptfed.blackbox.method import BlackBoxMethod, Desk
from promptfed.blackbox.projection import Projection, SoftPromptConfig
from promptfed.blackbox.search.cma_es import CmaEs
from promptfed.methods.base import METHODS, MethodConfig, Setup
from promptfed.prompts import PromptState
from promptfed.types import Broadcast, ClientData


class FedAvgBBTConfig(SoftPromptConfig):
    """FedAvg-BBT's options."""

    popsize: int = Field(8, ge=2, description="prompts in one generation of the client's CMA-ES")


@METHODS.register("fedavg_bbt")
class FedAvgBBT(BlackBoxMethod):
    """Every client searches with a CMA-ES of its own around the shared ``z`` and returns the mean that it ends with.

    Shared: ``z`` ``(dim,)``. Personal: nothing. The averaging is that of the run's aggregator.
    """

    name: ClassVar[str] = "FedAvg-BBT"
    paper: ClassVar[str] = "BBT: Sun et al. 2022, arXiv 2201.03514, averaged as in FedBPT, arXiv 2310.01467"
    trains: ClassVar[str] = "search vector z (dim,)"
    requires: ClassVar[frozenset[str]] = frozenset({"soft prompts"})
    Config: ClassVar[type[MethodConfig]] = FedAvgBBTConfig
    config: FedAvgBBTConfig

    def __init__(self, config: FedAvgBBTConfig, setup: Setup) -> None:
        super().__init__(config, setup)
        self.projection = Projection(config, self.oracle.soft, setup.seed)

    def init_shared(self) -> PromptState:
        return PromptState({"z": torch.zeros(self.config.dim)})

    def search(
        self, broadcast: Broadcast, data: ClientData, personal: PromptState, desk: Desk
    ) -> tuple[PromptState, PromptState]:
        found = CmaEs(
            broadcast.shared["z"].double().numpy(), self.config.sigma, desk.stream, popsize=self.config.popsize
        )
        while desk.affords(self.config.popsize):
            points, rows = found.ask(), desk.batch()
            found.tell(points, desk.losses([self.projection.candidate(_vector(p)) for p in points], rows).tolist())
        return PromptState({"z": _vector(found.best())}), personal

    def candidate(self, shared: PromptState, personal: PromptState) -> Candidate:
        return self.projection.candidate(shared["z"])


def _vector(point: np.ndarray) -> Tensor:
    return torch.from_numpy(point).float()
