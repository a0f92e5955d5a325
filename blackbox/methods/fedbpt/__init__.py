"""FedBPT: clients search with CMA-ES, the server moves one CMA-ES by their results (Sun et al., ICML 2024)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from promptfed.aggregators.base import Aggregator, AggregatorConfig
from promptfed.blackbox.base import BlackBoxMethod, ClientOracle
from promptfed.blackbox.methods.fedbpt.corruption import perturbed
from promptfed.blackbox.oracles.query import Candidate
from promptfed.blackbox.search.base import Vector
from promptfed.blackbox.search.cma_es import CmaEs
from promptfed.blackbox.search.cma_update import Distribution, shared_by_equals
from promptfed.blackbox.search.cma_update import update as cma_update
from promptfed.blackbox.soft.projection import Projection, SoftPromptConfig, vector
from promptfed.method import METHODS, MethodConfig, Shape
from promptfed.prompt_state import PromptState
from promptfed.setup import Setup
from promptfed.types import NO_PROMPT, Broadcast, ClientData, Split, Update


class FedBPTConfig(SoftPromptConfig):
    """FedBPT's options. The paper: dim=500, n_tokens=50, popsize 5, 8 iterations, perturb=0.5."""

    popsize: int = Field(5, ge=2, description="prompts in one generation of a client's CMA-ES")
    covariance: Literal["diagonal", "full"] = Field("diagonal", description="what the server's CMA-ES learns and sends")
    sigma_floor: float = Field(0.5, ge=0, description="least step size of clients, as a share of sigma")
    perturb: float = Field(
        0.0, ge=0, le=1, description="share of a text's words replaced in the copy that overfitting is measured on"
    )
    fitness: Literal["relative", "raw"] = Field(
        "relative", description="how clients' results are ranked: against the received prompt on the same data, or raw"
    )
    merge: Literal["ranks", "mean"] = Field(
        "ranks", description="what moves the server's search: results by rank, or their mean alone, without any fitness"
    )


@METHODS.register("fedbpt")
class FedBPT(BlackBoxMethod):
    """Clients run some generations from the server's distribution; the server updates one CMA-ES by the results.

    A client returns its final mean, the fitness of that and its step sizes; the means are a population of the server's
    CMA-ES.

    Shared: ``mean`` ``(dim,)``, ``sigma`` ``(1,)``, ``deviations`` ``(dim,)`` or ``covariance`` ``(dim, dim)``. Sent
    back: ``mean``, ``fitness`` ``(1,)``, ``spread`` ``(1,)``: the root of the summed squared step sizes over the
    parents. Personal: nothing; local searches begin with fresh paths, as in the paper. With ``merge="mean"`` (ours, for
    runs in which the server learns sums alone) ``mean`` is all that is sent back.

    Different from the released code: every client and round has a stream of its own; clients' results are ranked by
    their gain on the client's own data over the received prompt (an easy client's low loss says nothing about its
    prompt); ranks weight all clients; the floor of the step size holds; any number of replies will do; words of the
    text alone are perturbed, never those of template, mask or prompt; vectors travel, not optimisers.
    """

    name: ClassVar[str] = "FedBPT"
    paper: ClassVar[str] = "Sun et al. 2024, ICML, arXiv 2310.01467"
    trains: ClassVar[str] = "search distribution: mean (dim,), sigma, deviations (dim,)"
    requires: ClassVar[frozenset[str]] = frozenset({"soft prompts"})
    for_sums: ClassVar[Mapping[str, str]] = {"merge": "mean"}
    aggregators: ClassVar[tuple[str, ...]] = ("mean",)
    Config: ClassVar[type[MethodConfig]] = FedBPTConfig
    config: FedBPTConfig

    def __init__(self, config: FedBPTConfig, setup: Setup) -> None:
        super().__init__(config, setup)
        self.projection = Projection(config, self.oracle.soft, setup.seed)

    def init_shared(self) -> PromptState:
        dim = self.config.dim
        full = np.eye(dim) if self.config.covariance == "full" else None
        return _state(Distribution.start(np.zeros(dim), self.config.sigma, covariance=full))

    def uploads(self, client: int, sent: PromptState) -> dict[str, Shape]:
        figures: dict[str, Shape] = {} if self.config.merge == "mean" else {"fitness": (1,), "spread": (1,)}
        return {"mean": (self.config.dim,), **figures}

    def server_side(self, aggregator: Aggregator) -> Aggregator:
        return GlobalSearch(self.config)

    # --------------------------------------------------------------------------------------------- training

    def step_queries(self, data: ClientData) -> int:
        """Return the queries of a generation, and of the comparison of the result with the received prompt."""
        copies = 2 if self.config.perturb else 1
        return (self.config.popsize + self._compared) * copies * self.batch_of(data)

    @property
    def _compared(self) -> int:
        """Prompts for which queries are reserved at the end, to compare the result with the received one."""
        return 0 if self.config.merge == "mean" else 2

    def search(
        self, broadcast: Broadcast, data: ClientData, personal: PromptState, desk: ClientOracle
    ) -> tuple[PromptState, PromptState]:
        start = _distribution(broadcast.shared, NO_PROMPT)
        local = CmaEs(
            start.mean,
            start.sigma,
            desk.stream,
            popsize=self.config.popsize,
            deviations=start.deviations,
            covariance=start.covariance,
        )
        noisy = perturbed(data.train, self.config.perturb, desk.stream) if self.config.perturb else None
        copies, squares = 1 if noisy is None else 2, 0.0
        while desk.affords((self.config.popsize + self._compared) * copies) and not local.stop():
            points = local.ask()
            squares += local.sigma**2  # the step size that this generation was drawn with
            local.tell(points, self._fitness(desk, points, desk.batch(), noisy).tolist())
        if self.config.merge == "mean":
            return PromptState({"mean": vector(local.mean)}), personal
        fitness, start_fitness = self._fitness(desk, [local.mean, start.mean], desk.batch(), noisy)
        relative = fitness / max(abs(start_fitness), 1e-9) if self.config.fitness == "relative" else fitness
        upload = {
            "mean": vector(local.mean),
            "fitness": torch.tensor([float(relative)]),
            "spread": torch.tensor([math.sqrt(squares / max(1, self.config.popsize // 2))]),
        }
        return PromptState(upload), personal

    def _fitness(self, desk: ClientOracle, points: Sequence[Vector], rows: Tensor, noisy: Split | None) -> Vector:
        """Return the loss ``(points,)``; with a perturbed copy, the ratio of the loss to the loss on the copy.

        A prompt that merely favours the client's majority label lowers both.
        """
        prompts = [self.projection.candidate(vector(point)) for point in points]
        blurred = None if noisy is None else desk.losses(prompts, rows, split=noisy)
        clean = desk.losses(prompts, rows)
        return clean if blurred is None else clean / np.maximum(blurred, 1e-9)

    def candidate(self, shared: PromptState, personal: PromptState) -> Candidate:
        return self.projection.candidate(shared["mean"])


class GlobalSearch(Aggregator):
    """Server step: one CMA-ES update with the clients' means as its population.

    ``sigma_g = sqrt(mean_k sum_t sigma_kt^2 / mu)`` over the clients that replied estimates how far they moved; it is
    the step size of the update. The clients' next sigma is the last one times the update's change of ``sigma_g``, at
    most the last one and at least the floor. Weights fall with the rank of the fitness, ``ln(k + 1) - ln(rank)``, times
    sample counts. Server memory: the paths ``path_sigma``, ``path_c`` ``(dim,)`` and ``generation`` ``(1,)``.

    With ``merge="mean"`` the mean of the means by samples is a population of one, and sigma is the step size of the
    update as it is: where clients pull apart, or nowhere, the path grows short and sigma falls.
    """

    def __init__(self, config: FedBPTConfig) -> None:
        super().__init__(AggregatorConfig())
        self.options = config
        self.needs = "sum" if config.merge == "mean" else "each"

    def init(self, shared: PromptState) -> PromptState:
        nothing = torch.zeros_like(shared["mean"])
        return PromptState({"path_sigma": nothing, "path_c": nothing, "generation": torch.zeros(1)})

    def apply(
        self, shared: PromptState, updates: Sequence[Update], server: PromptState
    ) -> tuple[PromptState, PromptState]:
        previous = _distribution(shared, server)
        means = np.stack([update.shared["mean"].double().numpy() for update in updates])
        samples = np.array([update.samples for update in updates], dtype=np.float64)
        if self.options.merge == "mean":
            sigma, weights, means = previous.sigma, np.ones(1), np.average(means, 0, samples)[None]
        else:
            spreads = np.array([update.shared["spread"].item() for update in updates], dtype=np.float64)
            sigma = math.sqrt((spreads**2).mean()) or previous.sigma
            weights = rank_weights([update.shared["fitness"].item() for update in updates]) * samples
        updated = cma_update(replace(previous, sigma=sigma), means, weights)
        least = min(previous.sigma, self.options.sigma_floor * self.options.sigma)
        result = replace(updated, sigma=min(max(previous.sigma * updated.sigma / sigma, least), previous.sigma))
        memory = {
            "path_sigma": vector(result.path_sigma),
            "path_c": vector(result.path_c),
            "generation": torch.tensor([float(result.generation)]),
        }
        return _state(result), PromptState(memory)


def rank_weights(fitness: Sequence[float]) -> Vector:
    """Return ``(k,)`` weights ``ln(k + 1) - ln(rank)``; equals share theirs. All are positive."""
    return shared_by_equals(fitness, math.log(len(fitness) + 1) - np.log(np.arange(1, len(fitness) + 1)))


def _distribution(shared: PromptState, server: PromptState) -> Distribution:
    """Return the search distribution in ``shared``, with the server's paths or, at a client, with fresh ones."""
    shape = "deviations" if "deviations" in shared else "covariance"
    mean = shared["mean"].double().numpy()
    start = Distribution.start(mean, shared["sigma"].item(), **{shape: shared[shape].double().numpy()})
    if not len(server):
        return start
    return replace(
        start,
        path_sigma=server["path_sigma"].double().numpy(),
        path_c=server["path_c"].double().numpy(),
        generation=int(server["generation"].item()),
    )


def _state(distribution: Distribution) -> PromptState:
    """Return the part of a distribution that travels: the paths stay with the server."""
    arrays = {"mean": distribution.mean, "deviations": distribution.deviations, "covariance": distribution.covariance}
    tensors = {name: vector(array) for name, array in arrays.items() if array is not None}
    return PromptState({**tensors, "sigma": torch.tensor([distribution.sigma])})
