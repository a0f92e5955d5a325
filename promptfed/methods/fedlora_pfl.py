"""FedLoRA for personalised learning: shared factors, and each client's own (Wu et al. 2023), on a frozen model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field

from promptfed.inserts.low_rank import PERSONAL, B
from promptfed.local_training import LocalObjective, train_clients
from promptfed.method import METHODS, TrainingJob
from promptfed.prompt_state import PromptState
from promptfed.prompts.low_rank_method import LowRankConfig, LowRankMethod, is_factor
from promptfed.types import Broadcast, ClientData, Update


class FedLoRAConfig(LowRankConfig):
    """Options of LoRA, and of the two parts."""

    order: Literal["alternate", "joint"] = Field(
        "alternate", description="the shared part and then the personal one, each for local_epochs; or both at once"
    )


@METHODS.register("fedlora_pfl")
class FedLoRA(LowRankMethod):
    """``W + s B A + s B_k A_k``: low-rank factors that all share, and others that stay at client k.

    Shared: ``lora_A`` ``(r, in)``, ``lora_B`` ``(out, r)``, and a trained head. Personal: ``personal/...``, the same
    shapes, once they have trained; they start as A random and B zero. In a round a client trains the shared part with
    its own frozen, and then its own with the shared part frozen. Somebody who never took part has the shared part.
    Different from the paper: its shared part is a whole network, learned from scratch; here it is of low rank on a
    frozen model.
    """

    name: ClassVar[str] = "FedLoRA"
    paper: ClassVar[str] = "Wu et al. 2023 (personalised), on LoRA"
    trains: ClassVar[str] = "LoRA: A (r, in), B (out, r) for each target matrix, twice"
    keeps: ClassVar[str] = "texts, its own factors"
    Config = FedLoRAConfig
    config: FedLoRAConfig

    def values(self, shared: PromptState, personal: PromptState) -> PromptState:
        return PromptState({**shared, **personal})

    def problem(self, broadcast: Broadcast, data: ClientData, personal: PromptState) -> LocalObjective:
        """Return the objective of the personal part alone, with the shared one frozen."""
        whole = self.values(broadcast.shared, personal or self._personal_start)
        return self.objective(whole, data.train, [name for name in whole if name.startswith(PERSONAL)])

    def split_update(
        self, trained: PromptState, broadcast: Broadcast, data: ClientData, personal: PromptState
    ) -> tuple[PromptState, PromptState]:
        part = {name: tensor for name, tensor in trained.items() if name.startswith(PERSONAL)}
        return PromptState({name: tensor for name, tensor in trained.items() if name not in part}), PromptState(part)

    def train_many(self, jobs: Sequence[TrainingJob]) -> list[tuple[Update, PromptState]]:
        if not jobs:
            return []
        round = jobs[0][0].round
        values = [self.values(broadcast.shared, personal or self._personal_start) for broadcast, _, personal in jobs]
        for is_personal in (False, True) if self.config.order == "alternate" else (None,):
            problems = []
            for (_, data, _), whole in zip(jobs, values, strict=True):
                names = [name for name in whole if is_personal in (None, name.startswith(PERSONAL))]
                problems.append((data.client, self.objective(whole, data.train, names)))
            trained = train_clients(problems, self.config, self.setup, round)
            values = [PromptState({**v, **outcome}) for v, (outcome, _) in zip(values, trained, strict=True)]
        results = []
        for (broadcast, data, personal), whole, (_, fit) in zip(jobs, values, trained, strict=True):
            shared_part, personal_part = self.split_update(whole, broadcast, data, personal)
            results.append((Update(data.client, shared_part, len(data.train), fit.loss, fit.accuracy), personal_part))
        return results

    @property
    def _personal_start(self) -> PromptState:
        return PromptState(
            {f"{PERSONAL}{name}": tensor for name, tensor in self.start("personal").items() if is_factor(name)}
        )

    def blend(self, shared: PromptState, personal: PromptState, alpha: float) -> PromptState:
        """Return the personal part with ``alpha`` times its B: the straight path from the shared change to the sum."""
        return PromptState({name: t * alpha if name.endswith(B) else t for name, t in personal.items()})
