"""FlexLoRA, FLoRIST and FLoRA: clients of different ranks, whose changes are merged as they are, not their factors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field

from promptfed.aggregators.base import Aggregator
from promptfed.inserts.low_rank import RESIDUAL, A, B, LowRank, factor_name
from promptfed.language_models.insert import Factors
from promptfed.local_training import LocalObjective
from promptfed.low_rank import shares, singular, stack
from promptfed.method import METHODS, Shape, shapes
from promptfed.prompt_state import PromptState
from promptfed.prompts.low_rank_method import LowRankConfig, LowRankMethod, is_factor
from promptfed.prompts.low_rank_server import ResidualServer, Tensors, Weights, no_residual
from promptfed.types import Broadcast, ClientData

Cut = Literal["rank", "energy", "stack"]


class FlexLoRAConfig(LowRankConfig):
    """Options of LoRA, and what the server makes of the mean of the changes."""

    cut: Cut = Field(
        "rank",
        description="rank: its best approximation of each client's rank (FlexLoRA); energy: of one rank that keeps "
        "enough (FLoRIST); stack: all of it, added to the frozen matrices, and clients start afresh (FLoRA)",
    )
    energy: float = Field(
        0.95, gt=0, le=1, description="share of the squared singular values that cut=energy keeps at least"
    )
    residual_rank: int | None = Field(
        None, ge=1, description="of cut=stack: the highest rank of what is added; none: as it is, which grows"
    )


@METHODS.register("flex_lora")
class FlexLoRA(LowRankMethod):
    """Clients train factors of their own ranks; the server decomposes ``M = mean_k(s_k B_k A_k)`` by singular values.

    M is never formed: the decomposition is made from QR of the stacked factors. Shared: ``lora_A`` ``(p, in)``,
    ``lora_B`` ``(out, p)`` with ``B = U S / s``, ``A = V^T``. Up: ``(r_k, in)``, ``(out, r_k)``; ``ranks`` says r_k.

    * ``cut=rank``: a client is sent the first r_k components, the best approximation of M of its rank.
    * ``cut=energy``: p is the smallest rank, up to the largest r_k, that keeps ``energy``; a client is sent p of them,
      or r_k if that is less.
    * ``cut=stack``: shared is ``residual/...``, the sum of all rounds' M; clients start with a fresh A, drawn from the
      seed, and B = 0. Exact, and down grows by up to ``sum r_k`` ranks a round.

    Where M has fewer components than are trained, fresh ones that change nothing (A random, B zero) are added.
    Different from the papers: FlexLoRA forms M and decomposes it; FLoRIST has all clients train the common rank, and
    its code merges it into the weights; FLoRA draws another A at each client. alpha / r_k is a client's scale.
    """

    name: ClassVar[str] = "FlexLoRA"
    paper: ClassVar[str] = "Bai et al. 2024, NeurIPS, arXiv 2402.11505; FLoRA: arXiv 2409.05976; FLoRIST: 2506.09199"
    trains: ClassVar[str] = "LoRA: A (r_k, in), B (out, r_k) for each target matrix"
    aggregators: ClassVar[tuple[str, ...]] = ("mean", "uniform")
    mixes_ranks: ClassVar[bool] = True
    Config = FlexLoRAConfig
    config: FlexLoRAConfig

    def init_shared(self) -> PromptState:
        start = self.start()
        if self.config.cut == "rank":
            return start
        if self.config.cut == "energy":
            return first_components(self.kind, start, 1)
        rest = {name: tensor for name, tensor in start.items() if not is_factor(name)}
        return PromptState({**rest, **no_residual(self.kind)})

    def problem(self, broadcast: Broadcast, data: ClientData, personal: PromptState) -> LocalObjective:
        values, rank = dict(broadcast.shared), self.rank(data.client)
        for path in self.kind.paths:
            if self.config.cut == "stack":
                rows = self.kind.random_rows(path, rank, "fresh", broadcast.round)
                change = Factors(rows, torch.zeros(self.kind.shapes[path][0], rank))
            else:
                change = self.kind.resized(path, self.kind.factors(values, path), rank, "fresh", broadcast.round)
            values |= self.kind.named(path, change)
        whole = PromptState(values)
        return self.objective(whole, data.train, self.trained_names(broadcast.round, whole))

    def uploads(self, client: int, sent: PromptState) -> Mapping[str, Shape]:
        rest = [name for name in sent if not is_factor(name) and not name.startswith(RESIDUAL)]
        rank, factors = self.rank(client), shapes(sent, rest)
        for path, (out, width) in self.kind.shapes.items():
            factors |= {factor_name(path, A): (rank, width), factor_name(path, B): (out, rank)}
        return factors

    def server_side(self, aggregator: Aggregator) -> Aggregator:
        return Decomposition(aggregator, self)


class Decomposition(ResidualServer):
    """The mean of changes as singular components, from the largest down."""

    def __init__(self, inner: Aggregator, method: FlexLoRA) -> None:
        super().__init__(inner, method.kind, method.config.residual_rank)
        self.method = method

    def broadcast(self, shared: PromptState, server: PromptState, client: int | None) -> PromptState:
        if self.method.config.cut == "stack":
            return shared
        return first_components(self.kind, shared, self.method.rank(client))

    def merge_factors(self, path: str, changes: Sequence[Factors], weights: Weights, shared: PromptState) -> Tensors:
        mean, config = stack(changes, shares(weights)), self.method.config
        if config.cut == "stack":
            return self.grown(path, mean, shared)
        parts, kind = singular(mean), self.kind
        if config.cut == "rank":
            best = parts.factors(kind.r, kind.scale(kind.r))
            return kind.named(path, kind.resized(path, best, kind.r, "fresh"))
        rank = min(kind.r, parts.rank_of_energy(config.energy))
        return kind.named(path, parts.factors(rank, kind.scale(rank)))


def first_components(kind: LowRank, shared: PromptState, rank: int) -> PromptState:
    """Return ``shared`` with the first ``rank`` components of each matrix's change, or all if it has fewer."""
    values = dict(shared)
    for path in kind.paths:
        change = kind.factors(shared, path)
        if len(change.a) > rank:
            values |= kind.named(path, kind.resized(path, change, rank))
    return PromptState(values)
