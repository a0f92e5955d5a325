"""FedSA-LoRA: A is shared, B stays at home (Guo et al., ICLR 2025, arXiv 2410.01463)."""

from __future__ import annotations

from typing import ClassVar

from promptfed.local_training import train_clients
from promptfed.method import METHODS
from promptfed.prompt_state import PromptState
from promptfed.prompts.low_rank_method import LowRankConfig, LowRankMethod, is_a
from promptfed.types import NO_PROMPT, Broadcast, ClientData


@METHODS.register("fedsa_lora")
class FedSALoRA(LowRankMethod):
    """Clients train A and B, and send A: it holds what all have in common, B what is the client's own.

    Shared: ``lora_A`` ``(r, in)``. Personal: ``lora_B`` ``(out, r)``, and a trained head. There is no common B, so
    somebody who never took part has the frozen model; ``promptfed personalize onboard`` trains a newcomer's B with A
    fixed, for the rounds of the run.
    Different from the paper: Adam for some epochs in the place of SGD for 10 steps; r 8, alpha 16 as there.
    """

    name: ClassVar[str] = "FedSA-LoRA"
    paper: ClassVar[str] = "Guo et al. 2025, ICLR, arXiv 2410.01463"
    trains: ClassVar[str] = "LoRA: A (r, in), B (out, r) for each target matrix"
    keeps: ClassVar[str] = "texts, B and a trained head"
    Config = LowRankConfig

    def init_shared(self) -> PromptState:
        return self._split(self.start())[0]

    def values(self, shared: PromptState, personal: PromptState) -> PromptState:
        return PromptState({**self.start(), **shared, **personal})

    def split_update(
        self, trained: PromptState, broadcast: Broadcast, data: ClientData, personal: PromptState
    ) -> tuple[PromptState, PromptState]:
        return self._split(trained)

    def fit_newcomer(self, shared: PromptState, data: ClientData) -> PromptState:
        """Return ``shared`` and a B and head that are trained on the newcomer's data, with A fixed."""
        values = self.values(shared, NO_PROMPT)
        names = [name for name in values if not is_a(name)]
        for round in range(1, self.setup.rounds + 1):
            problem = self.objective(values, data.train, names)
            [(outcome, _)] = train_clients([(data.client, problem)], self.config, self.setup, round)
            values = PromptState({**values, **outcome})
        return values

    def tuned_blend(self, shared: PromptState, tuned: PromptState, alpha: float) -> PromptState:
        """As every method's on low rank; the shared end is the frozen model."""
        return self.kind.interpolate(self.values(shared, NO_PROMPT), tuned, alpha)

    def _split(self, values: PromptState) -> tuple[PromptState, PromptState]:
        """Split into (A, everything else)."""
        shared = {name: tensor for name, tensor in values.items() if is_a(name)}
        return PromptState(shared), PromptState({name: values[name] for name in values if name not in shared})
