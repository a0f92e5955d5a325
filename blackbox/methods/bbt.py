"""BBT: one CMA-ES over a projected soft prompt, without a federation, or on pooled data (Sun et al., ICML 2022)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from pydantic import Field

from promptfed.blackbox.base import BlackBoxMethod, ClientOracle
from promptfed.blackbox.oracles.query import Candidate
from promptfed.blackbox.search.base import Vector
from promptfed.blackbox.search.cma_update import Distribution, update, weights_by_rank
from promptfed.blackbox.soft.projection import Projection, SoftPromptConfig, vector
from promptfed.method import METHODS, MethodConfig
from promptfed.prompt_state import PromptState
from promptfed.setup import Setup
from promptfed.types import NO_PROMPT, Broadcast, ClientData

FULL_UP_TO = 200
"""Dimensions up to which a full covariance is kept; beyond, a diagonal one."""


class BBTConfig(SoftPromptConfig):
    """BBT's options. The paper: dim=500, n_tokens=50, popsize 20, 8,000 evaluations of the whole training set."""

    popsize: int = Field(5, ge=2, description="prompts in one generation")
    pooled: bool = Field(False, description="one search on everybody's data: what a federation would like to reach")


@METHODS.register("bbt")
class BBT(BlackBoxMethod):
    """Every client runs its own search on its own data; ``pooled`` runs one on all data, with the queries of all.

    Shared: nothing; pooled: the search. Personal: the search; pooled: nothing. The search is a CMA-ES that goes on from
    round to round: ``mean`` ``(dim,)``, ``sigma`` ``(1,)``, ``covariance`` ``(dim, dim)`` (beyond 200 dimensions
    ``deviations`` ``(dim,)``), ``path_sigma`` and ``path_c`` ``(dim,)``, ``generation`` ``(1,)``. Somebody who never
    took part has the prompt that searches start from.

    Different from the paper: its rounds are checkpoints only; candidates of a generation are compared on a batch drawn
    for it instead of on all data; the mean is deployed, not the candidate that was best on development data.
    """

    name: ClassVar[str] = "BBT"
    paper: ClassVar[str] = "Sun et al. 2022, ICML, arXiv 2201.03514"
    trains: ClassVar[str] = "search vector z (dim,) and its CMA-ES"
    keeps: ClassVar[str] = "texts or images, the search"
    requires: ClassVar[frozenset[str]] = frozenset({"soft prompts"})
    aggregators: ClassVar[tuple[str, ...]] = ("mean",)
    Config: ClassVar[type[MethodConfig]] = BBTConfig
    config: BBTConfig

    def __init__(self, config: BBTConfig, setup: Setup) -> None:
        super().__init__(config, setup)
        self.projection = Projection(config, self.oracle.soft, setup.seed)

    def _start(self) -> PromptState:
        dim = self.config.dim
        full = np.eye(dim) if dim <= FULL_UP_TO else None
        return _state(Distribution.start(np.zeros(dim), self.config.sigma, covariance=full))

    def init_shared(self) -> PromptState:
        return self._start() if self.config.pooled else NO_PROMPT

    def init_personal(self, client: int) -> PromptState:
        return NO_PROMPT if self.config.pooled else self._start()

    @property
    def is_centralized(self) -> bool:
        return self.config.pooled

    def participants(self, round: int, drawn: Sequence[int], clients: Sequence[int]) -> Sequence[int]:
        """Return the one client that holds all data if ``pooled``, else the drawn ones."""
        return clients[:1] if self.config.pooled else drawn

    def allowance(self, data: ClientData) -> int:
        return self.config.queries * (max(1, len(self.setup.domains)) if self.config.pooled else 1)

    def step_queries(self, data: ClientData) -> int:
        return self.config.popsize * self.batch_of(data)

    def search(
        self, broadcast: Broadcast, data: ClientData, personal: PromptState, desk: ClientOracle
    ) -> tuple[PromptState, PromptState]:
        distribution = Distribution.from_arrays(_arrays(broadcast.shared if self.config.pooled else personal))
        while desk.affords(self.config.popsize):
            points = sample(distribution, self.config.popsize, desk.stream)
            losses = desk.losses([self.projection.candidate(vector(point)) for point in points], desk.batch())
            distribution = update(distribution, np.stack(points), weights_by_rank(losses))
        return (_state(distribution), NO_PROMPT) if self.config.pooled else (NO_PROMPT, _state(distribution))

    def candidate(self, shared: PromptState, personal: PromptState) -> Candidate:
        state = shared if self.config.pooled else personal
        return self.projection.candidate(state["mean"] if len(state) else torch.zeros(self.config.dim))


def sample(distribution: Distribution, count: int, stream: np.random.Generator) -> list[Vector]:
    """Draw ``count`` points ``(dim,)``."""
    plain = stream.standard_normal((count, distribution.mean.size))
    shaped = plain if distribution.deviations is None else plain * distribution.deviations
    if distribution.covariance is not None:
        shaped = plain @ np.linalg.cholesky(distribution.covariance).T
    return list(distribution.mean + distribution.sigma * shaped)


def _state(distribution: Distribution) -> PromptState:
    return PromptState({name: vector(np.atleast_1d(array)) for name, array in distribution.arrays().items()})


def _arrays(state: PromptState) -> dict[str, np.ndarray]:
    return {name: tensor.double().numpy() for name, tensor in state.items()}
