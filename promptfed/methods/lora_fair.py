"""LoRA-FAIR: B is corrected so that the product is nearer to the mean (Bian et al., ICCV 2025, arXiv 2411.14961)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field

from promptfed.aggregators.base import Aggregator
from promptfed.inserts.low_rank import LowRank
from promptfed.language_models.insert import Factors
from promptfed.low_rank import ridge_b
from promptfed.method import METHODS
from promptfed.prompt_state import PromptState
from promptfed.prompts.low_rank_method import LowRankConfig, LowRankMethod
from promptfed.prompts.low_rank_server import FactorServer, Tensors, Weights


class LoRAFairConfig(LowRankConfig):
    """Options of LoRA, and the server's penalty."""

    penalty: float = Field(0.01, ge=0, description="of the correction's squared length (lambda)")


@METHODS.register("lora_fair")
class LoRAFair(LowRankMethod):
    """FedIT whose server keeps the mean of A and corrects that of B: ``(Bbar + D) Abar`` is near ``mean_k B_k A_k``.

    Shared: ``lora_A`` ``(r, in)``, ``lora_B`` ``(out, r)``.
    Different from the paper: D is the minimum of a squared distance plus ``penalty |D|^2``, in closed form, where the
    paper takes gradient steps on a cosine distance plus ``penalty |D|``.
    """

    name: ClassVar[str] = "LoRA-FAIR"
    paper: ClassVar[str] = "Bian et al. 2025, ICCV, arXiv 2411.14961"
    trains: ClassVar[str] = "LoRA: A (r, in), B (out, r) for each target matrix"
    aggregators: ClassVar[tuple[str, ...]] = ("mean", "uniform")
    Config = LoRAFairConfig
    config: LoRAFairConfig

    def server_side(self, aggregator: Aggregator) -> Aggregator:
        return CorrectedMean(aggregator, self.kind, self.config.penalty)


class CorrectedMean(FactorServer):
    """The mean of A, and the B that brings the product nearest to the mean of products."""

    def __init__(self, inner: Aggregator, kind: LowRank, penalty: float) -> None:
        super().__init__(inner, kind)
        self.penalty = penalty

    def merge_factors(self, path: str, changes: Sequence[Factors], weights: Weights, shared: PromptState) -> Tensors:
        return self.kind.named(path, ridge_b(changes, weights, self.penalty))
