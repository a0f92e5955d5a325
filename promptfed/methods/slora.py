"""SLoRA: a sparse change first, whose decomposition LoRA starts from (Babakniya et al. 2023, arXiv 2308.06522)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from promptfed.aggregators.base import Aggregator, AggregatorWrapper
from promptfed.inserts.low_rank import RESIDUAL, A, B, LowRank, factor_name
from promptfed.language_models.insert import Factors
from promptfed.low_rank import refactor
from promptfed.method import METHODS, Shape, shapes
from promptfed.prompt_state import PromptState
from promptfed.prompts.low_rank_method import LowRankConfig, LowRankMethod, is_factor
from promptfed.seeding import torch_stream
from promptfed.types import Update

MERGES = "slora/merges"


class SLoRAConfig(LowRankConfig):
    """Options of LoRA, and of the sparse rounds before it."""

    density: float = Field(0.02, gt=0, le=1, description="share of a matrix's columns that the sparse rounds train")
    sparse_rounds: int | None = Field(None, ge=1, description="rounds of sparse training; none: a quarter of all")


@METHODS.register("slora")
class SLoRA(LowRankMethod):
    """First rounds: a sparse change of each matrix, averaged exactly. Then FedIT from its best factors of rank r.

    Shared at first: the values ``(out, columns)`` of some columns of each matrix, drawn from the seed and the same for
    all, under ``residual/...lora_B``; then ``lora_A`` ``(r, in)``, ``lora_B`` ``(out, r)``.
    Different from the paper: its mask is of single entries and its first rounds change the weights themselves; here the
    model is frozen, so a mask is of whole columns, and the change is added while reading. Adapters in the place of LoRA
    are left out. Where the columns are fewer than r, fresh components that add nothing make up the rest.
    """

    name: ClassVar[str] = "SLoRA"
    paper: ClassVar[str] = "Babakniya et al. 2023, arXiv 2308.06522"
    trains: ClassVar[str] = "columns (out, columns) of each target matrix; then LoRA: A (r, in), B (out, r)"
    aggregators: ClassVar[tuple[str, ...]] = ("mean", "uniform")
    paced: ClassVar[bool] = True
    Config = SLoRAConfig
    config: SLoRAConfig

    @property
    def sparse_rounds(self) -> int:
        """Rounds of sparse training."""
        return self.config.sparse_rounds or max(1, self.setup.rounds // 4)

    def init_shared(self) -> PromptState:
        values = {name: tensor for name, tensor in self.start().items() if not is_factor(name)}
        for path, (out, _) in self.kind.shapes.items():
            values[factor_name(path, B, RESIDUAL)] = torch.zeros(out, len(self.columns(path)))
        return PromptState(values)

    def columns(self, path: str) -> Tensor:
        """Return A ``(columns, in)`` that picks this matrix's columns: in each row one 1."""
        width = self.kind.shapes[path][1]
        count = max(1, round(self.config.density * width))
        order = torch.randperm(width, generator=torch_stream(self.setup.seed, "slora", path))
        return torch.eye(width)[order[:count].sort().values]

    def values(self, shared: PromptState, personal: PromptState) -> PromptState:
        if not is_sparse(shared):
            return shared
        return PromptState({**shared, **{factor_name(p, A, RESIDUAL): self.columns(p) for p in self.kind.paths}})

    def trained_names(self, round: int, values: PromptState) -> Collection[str]:
        return [name for name in values if not name.startswith(RESIDUAL) or name.endswith(B)]

    def uploads(self, client: int, sent: PromptState) -> Mapping[str, Shape]:
        return shapes(sent)

    def server_side(self, aggregator: Aggregator) -> Aggregator:
        return SparseFirst(aggregator, self)


class SparseFirst(AggregatorWrapper):
    """``inner``, which after some merges of sparse changes turns them into factors. Memory: the number of merges."""

    sees_each = False

    def __init__(self, inner: Aggregator, method: SLoRA) -> None:
        super().__init__(inner)
        self.method = method

    def init(self, shared: PromptState) -> PromptState:
        return PromptState({MERGES: torch.zeros(1)})

    def apply(
        self, shared: PromptState, updates: Sequence[Update], server: PromptState
    ) -> tuple[PromptState, PromptState]:
        merged, _ = self.inner.apply(shared, updates, PromptState())
        merges = server[MERGES] + 1
        if is_sparse(merged) and merges.item() >= self.method.sparse_rounds:
            merged = decomposed(self.method, merged)
        return merged, PromptState({MERGES: merges})


def decomposed(method: SLoRA, shared: PromptState) -> PromptState:
    """Return ``shared`` with the best factors of rank r in the place of the sparse changes."""
    kind: LowRank = method.kind
    values = {name: tensor for name, tensor in shared.items() if not name.startswith(RESIDUAL)}
    for path in kind.paths:
        change = Factors(method.columns(path), shared[factor_name(path, B, RESIDUAL)])
        best = refactor(change, rank=kind.r, scale=kind.scale(kind.r))
        values |= kind.named(path, kind.resized(path, best, kind.r, "slora"))
    return PromptState(values)


def is_sparse(shared: PromptState) -> bool:
    """Whether the rounds of sparse training are not over."""
    return any(name.startswith(RESIDUAL) for name in shared)
