"""FedKSeed-Prompt: a soft prompt whose training steps are a seed and a number each (Qin et al., ICML 2024)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor

from promptfed.aggregators.base import Aggregator, AggregatorWrapper
from promptfed.blackbox.base import BlackBoxMethod, ClientOracle
from promptfed.blackbox.oracles.query import Candidate
from promptfed.blackbox.soft.projection import Projection, SoftPromptConfig
from promptfed.method import METHODS, MethodConfig, Shape
from promptfed.prompt_state import PromptState
from promptfed.seeding import numpy_stream
from promptfed.setup import Setup
from promptfed.types import Broadcast, ClientData, Update

Floats = npt.NDArray[np.float32]
SEEDS = 2**63
"""A seed is below this, so that it is an int64 on the wire."""


class FedKSeedConfig(SoftPromptConfig):
    """FedKSeed-Prompt's options."""

    lr: float = Field(2.0, gt=0, description="step size")
    eps: float = Field(1.0, gt=0, description="distance of the two prompts that are compared from the one between them")
    clip: float = Field(1.0, gt=0, description="bound on the number of a step; the server enforces it too")
    pool: int | None = Field(
        None,
        ge=1,
        description="K: seeds are 0 .. K-1 and a number for each is sent to clients; none: any seed, z is sent",
    )
    seeds: Literal["client", "round"] = Field(
        "client",
        description="each client draws seeds of its own, or all take a round's steps along the same ones, sent to them",
    )


@METHODS.register("fedkseed_prompt")
class FedKSeedPrompt(BlackBoxMethod):
    """Soft prompt whose training steps are a seed and a number each.

    A step of a client: draw a seed s, ``g = (L(z + eps u) - L(z - eps u)) / (2 eps)`` on one minibatch with
    ``u = direction(s)``, ``z <- z - lr g u``. It sends ``seeds`` ``(steps,)`` int64 and ``scalars`` ``(steps,)``
    float32, 12 bytes a step; the server takes the same steps to the same bits, and averages the final points.

    Shared: ``z`` ``(dim,)``, 4 bytes a dimension down. With a pool of K seeds, FedKSeed's own form: ``sums`` ``(K,)``,
    the sum of all steps along each seed, from which all parties make ``z = -lr sum_s sums_s u(s)``; fewer bytes down
    than z if K < dim, and z then stays in the span of K directions. Personal: nothing.

    With ``seeds="round"`` clients are also sent the round's ``seeds`` and zeros ``scalars`` ``(steps,)``, and send back
    ``scalars`` alone: a vector of as many numbers for every client, whose mean is all that the server needs (as in
    zeroth-order methods with a shared direction, DPZero, arXiv 2310.09639). A step is linear in its scalar, so the
    steps of the mean end where the mean of all final points is.

    FedKSeed trains all weights of a model that the client holds (K = 4096), this one a vector before BBT's projection,
    by losses of a black box; the server's clipping and everything about z are ours.
    """

    name: ClassVar[str] = "FedKSeed-Prompt"
    paper: ClassVar[str] = "FedKSeed: Qin et al. 2024, ICML, arXiv 2312.06353, on BBT's z"
    trains: ClassVar[str] = "search vector z (dim,), sent as seeds and scalars"
    requires: ClassVar[frozenset[str]] = frozenset({"soft prompts"})
    for_sums: ClassVar[Mapping[str, str]] = {"seeds": "round"}
    integer_uploads: ClassVar[frozenset[str]] = frozenset({"seeds"})
    Config: ClassVar[type[MethodConfig]] = FedKSeedConfig
    config: FedKSeedConfig

    def __init__(self, config: FedKSeedConfig, setup: Setup) -> None:
        super().__init__(config, setup)
        self.projection = Projection(config, self.oracle.soft, setup.seed)

    def init_shared(self) -> PromptState:
        pool = self.config.pool
        start = {"z": torch.zeros(self.config.dim)} if pool is None else {"sums": torch.zeros(pool)}
        return PromptState({**start, **steps_to_take(self.config, self.setup.seed)})

    def uploads(self, client: int, sent: PromptState) -> dict[str, Shape]:
        if self.config.seeds == "round":
            return {"scalars": (steps_of(self.config),)}
        return {"seeds": (None,), "scalars": (None,)}

    def server_side(self, aggregator: Aggregator) -> Aggregator:
        return Replayed(aggregator, self.config, self.setup.seed)

    # --------------------------------------------------------------------------------------------- training

    def step_queries(self, data: ClientData) -> int:
        return 2 * self.batch_of(data)

    def search(
        self, broadcast: Broadcast, data: ClientData, personal: PromptState, desk: ClientOracle
    ) -> tuple[PromptState, PromptState]:
        state, eps, clip = broadcast.shared, np.float32(self.config.eps), self.config.clip
        is_agreed = self.config.seeds == "round"
        agreed = state["seeds"].tolist() if is_agreed else []
        seeds: list[int] = []
        scalars: list[np.float32] = []
        while desk.affords(2) and not (is_agreed and len(seeds) == len(agreed)):
            seed = agreed[len(seeds)] if is_agreed else int(desk.stream.integers(self.config.pool or SEEDS))
            rows = desk.batch()
            z, u = position(state, self.config), direction(seed, self.config.dim)
            prompts = [self.projection.candidate(torch.from_numpy(point)) for point in (z + eps * u, z - eps * u)]
            plus, minus = desk.losses(prompts, rows)
            scalar = np.float32(np.clip((plus - minus) / (2 * self.config.eps), -clip, clip))
            if not np.isfinite(scalar):  # no slope, no step
                if not is_agreed:
                    continue
                scalar = np.float32(0)
            state = step(state, seed, scalar, self.config)
            seeds.append(seed)
            scalars.append(scalar)
        upload = {"scalars": torch.from_numpy(np.array(scalars, dtype=np.float32))}
        if not is_agreed:
            upload["seeds"] = torch.tensor(seeds, dtype=torch.int64)
        return PromptState(upload), personal

    def candidate(self, shared: PromptState, personal: PromptState) -> Candidate:
        return self.projection.candidate(torch.from_numpy(position(shared, self.config)))


# ---------------------------------------------------------------------------------- steps, the same for everybody


def direction(seed: int, dim: int) -> Floats:
    """Return ``u`` ``(dim,)`` float32, N(0, I): Philox counts up from the seed as its key, so it is stateless."""
    return np.random.Generator(np.random.Philox(key=seed)).standard_normal(dim, dtype=np.float32)


def step(state: PromptState, seed: int, scalar: np.float32, config: FedKSeedConfig) -> PromptState:
    """Return ``state`` after one step, by float32 operations in a fixed order."""
    if config.pool is None:
        return PromptState({"z": torch.from_numpy(_moved(state["z"].numpy(), seed, scalar, config))})
    sums = state["sums"].clone()
    sums[seed] += float(scalar)
    return PromptState({"sums": sums})


def steps_of(config: FedKSeedConfig) -> int:
    """Return the steps of every client in a round whose seeds are the round's: as its data, they say nothing of it."""
    return max(1, config.queries // (2 * config.batch_size))


def steps_to_take(config: FedKSeedConfig, seed: int, last: int = -1) -> dict[str, Tensor]:
    """Return the ``seeds`` of a round and zeros for ``scalars``, ``(steps,)`` each; nothing if clients draw seeds.

    The round's seeds follow from the run's ``seed`` and from the ``last`` seed of the round before.
    """
    if config.seeds == "client":
        return {}
    drawn = numpy_stream(seed, "directions", last).integers(config.pool or SEEDS, size=steps_of(config))
    return {"seeds": torch.from_numpy(drawn), "scalars": torch.zeros(len(drawn))}


def position(state: PromptState, config: FedKSeedConfig) -> Floats:
    """Return ``z`` ``(dim,)``: as stored, or made from the sums of the steps along each seed of the pool."""
    if config.pool is None:
        start: Floats = state["z"].numpy()
        return start
    z = np.zeros(config.dim, dtype=np.float32)
    for seed, scalar in enumerate(state["sums"].numpy()):
        if scalar:
            z = _moved(z, seed, scalar, config)
    return z


def _moved(z: Floats, seed: int, scalar: np.float32, config: FedKSeedConfig) -> Floats:
    """Return ``z - (lr g) u(seed)``."""
    result: Floats = z - np.float32(config.lr) * np.float32(scalar) * direction(seed, config.dim)
    return result


def _point(shared: PromptState) -> PromptState:
    """Return the part of ``shared`` that says where ``z`` is."""
    return PromptState({name: shared[name] for name in ("z", "sums") if name in shared})


class Replayed(AggregatorWrapper):
    """Aggregator that replays every client's steps and gives the final states to ``inner``.

    Scalars beyond the bound are cut to it. A client whose lists do not belong together, or whose seeds are not of the
    pool, is left out. Where the seeds are the round's, the mean of all scalars is enough for it.
    """

    def __init__(self, inner: Aggregator, options: FedKSeedConfig, seed: int) -> None:
        super().__init__(inner)
        self.options, self.seed = options, seed
        self.needs = inner.needs if options.seeds == "round" else "each"

    def init(self, shared: PromptState) -> PromptState:
        return super().init(_point(shared))

    def broadcast(self, shared: PromptState, server: PromptState, client: int | None) -> PromptState:
        return PromptState({**shared, **super().broadcast(_point(shared), server, client)})

    def apply(
        self, shared: PromptState, updates: Sequence[Update], server: PromptState
    ) -> tuple[PromptState, PromptState]:
        arrived = []
        for update in updates:
            seeds, scalars = update.shared.get("seeds", shared.get("seeds")), update.shared["scalars"]
            if seeds is not None and self._belong_together(seeds, scalars):
                start = _point(self.broadcast(shared, server, update.client))
                arrived.append(replace(update, shared=self.replay(start, seeds, scalars)))
        if not arrived:
            return shared, server
        point, server = super().apply(_point(shared), arrived, server)
        last = int(shared["seeds"][-1]) if "seeds" in shared else -1
        return PromptState({**shared, **point, **steps_to_take(self.options, self.seed, last)}), server

    def replay(self, state: PromptState, seeds: Tensor, scalars: Tensor) -> PromptState:
        """Return the state after a client's steps from ``state``."""
        bounded = scalars.clamp(-self.options.clip, self.options.clip).numpy()
        for seed, scalar in zip(seeds.tolist(), bounded, strict=True):
            state = step(state, seed, scalar, self.options)
        return state

    def _belong_together(self, seeds: Tensor, scalars: Tensor) -> bool:
        if seeds.shape != scalars.shape or seeds.is_floating_point():
            return False
        is_seed = seeds >= 0  # an int64 is below SEEDS as it is
        return bool((is_seed if self.options.pool is None else is_seed & (seeds < self.options.pool)).all())
