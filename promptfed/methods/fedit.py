"""FedIT: federated averaging of LoRA's factors (Zhang et al., ICASSP 2024, arXiv 2305.05644)."""

from __future__ import annotations

from typing import ClassVar

from promptfed.method import METHODS
from promptfed.prompts.low_rank_method import LowRankConfig, LowRankMethod


@METHODS.register("fedit")
class FedIT(LowRankMethod):
    """Clients train A and B of every target matrix; the server averages each by itself.

    Shared: ``lora_A`` ``(r, in)``, ``lora_B`` ``(out, r)``. The product of the means is not the mean of the products:
    it misses ``s sum_k p_k (B_k - Bbar)(A_k - Abar)``, which grows with local steps.
    Different from the paper (Shepherd's code): r 8 and alpha 16 in the place of 16 and 16, query and value in the place
    of query alone, no dropout, and any task of promptfed in the place of instructions.
    """

    name: ClassVar[str] = "FedIT"
    paper: ClassVar[str] = "Zhang et al. 2024, ICASSP, arXiv 2305.05644"
    trains: ClassVar[str] = "LoRA: A (r, in), B (out, r) for each target matrix"
    Config = LowRankConfig
