"""FFA-LoRA: A is random and never trained, so that the mean of B is exact (Sun et al., ICLR 2024, arXiv 2403.12313)."""

from __future__ import annotations

from collections.abc import Collection
from typing import ClassVar

from promptfed.method import METHODS
from promptfed.prompt_state import PromptState
from promptfed.prompts.low_rank_method import LowRankMethod, OneFactorConfig, is_a


@METHODS.register("ffa_lora")
class FFALoRA(LowRankMethod):
    """Clients train B alone; A is common to all, drawn from the run's seed, and never travels.

    Shared: ``lora_B`` ``(out, r)``, half of what LoRA has for square matrices. The mean of the products is the product
    of the means. Noise for differential privacy enters the model linearly.
    Different from the paper: r 8, alpha 16; alpha plays no part of its own, since only B moves, but the learning rate
    goes with it. The draw of A matters for quality; another ``--seed`` gives another.
    """

    name: ClassVar[str] = "FFA-LoRA"
    paper: ClassVar[str] = "Sun et al. 2024, ICLR, arXiv 2403.12313"
    trains: ClassVar[str] = "LoRA: B (out, r) for each target matrix"
    Config = OneFactorConfig

    def init_shared(self) -> PromptState:
        return PromptState({name: tensor for name, tensor in self.start().items() if not is_a(name)})

    def values(self, shared: PromptState, personal: PromptState) -> PromptState:
        return PromptState({**self.start(), **shared})

    def trained_names(self, round: int, values: PromptState) -> Collection[str]:
        return [name for name in values if not is_a(name)]
