"""FedEx-LoRA: what a mean of factors misses is added to the frozen matrices (Singhal et al. 2024, arXiv 2410.09432)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field

from promptfed.aggregators.base import Aggregator
from promptfed.language_models.insert import Factors
from promptfed.low_rank import covariance_residual, mean_factors
from promptfed.method import METHODS
from promptfed.prompt_state import PromptState
from promptfed.prompts.low_rank_method import LowRankConfig, LowRankMethod
from promptfed.prompts.low_rank_server import ResidualServer, Tensors, Weights, no_residual


class FedExLoRAConfig(LowRankConfig):
    """Options of LoRA, and how far the residual may grow."""

    residual_rank: int | None = Field(
        None, ge=1, description="the highest rank of a residual; none: as it is, which is exact and grows each round"
    )


@METHODS.register("fedex_lora")
class FedExLoRA(LowRankMethod):
    """FedIT, and a residual ``R = mean_k(s B_k A_k) - s Bbar Abar`` that the server adds to each frozen matrix.

    Shared: ``lora_A`` ``(r, in)``, ``lora_B`` ``(out, r)``; sent down only: ``residual/...``, the sum of all rounds'
    residuals as factors of the lowest rank that says the same, up to ``(K - 1) r`` more in a round. So the model that
    clients go on from is the mean of their models, to rounding. With a cap (``residual_rank``) the best approximation
    is sent, and the log says what it loses.
    Different from the paper: the mean is weighted by samples (``--aggregator uniform`` for the other); the residual
    travels as factors, and its orientation is right for matrices that are not square.
    """

    name: ClassVar[str] = "FedEx-LoRA"
    paper: ClassVar[str] = "Singhal et al. 2024, arXiv 2410.09432"
    trains: ClassVar[str] = "LoRA: A (r, in), B (out, r) for each target matrix"
    aggregators: ClassVar[tuple[str, ...]] = ("mean", "uniform")
    Config = FedExLoRAConfig
    config: FedExLoRAConfig

    def init_shared(self) -> PromptState:
        return PromptState({**self.start(), **no_residual(self.kind)})

    def server_side(self, aggregator: Aggregator) -> Aggregator:
        return ExactMean(aggregator, self.kind, self.config.residual_rank)


class ExactMean(ResidualServer):
    """Means of A and B, and a residual that makes up for the difference."""

    def merge_factors(self, path: str, changes: Sequence[Factors], weights: Weights, shared: PromptState) -> Tensors:
        residual = self.grown(path, covariance_residual(changes, weights), shared)
        return {**residual, **self.kind.named(path, mean_factors(changes, weights))}
