"""RoLoRA: rounds that train B and rounds that train A take turns (Chen et al. 2024, arXiv 2502.01755)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import ClassVar

import torch

from promptfed.aggregators.base import Aggregator, AggregatorWrapper
from promptfed.method import METHODS, Shape, shapes
from promptfed.prompt_state import PromptState
from promptfed.prompts.low_rank_method import LowRankMethod, OneFactorConfig, is_a
from promptfed.types import Update

TURN = "turn"
"""Name of one number: 0 where B is trained next, 1 where A is."""


@METHODS.register("rolora")
class RoLoRA(LowRankMethod):
    """Odd rounds train and send B, even rounds A; the other factor is frozen, and the same at all clients.

    Shared: ``lora_A`` ``(r, in)``, ``lora_B`` ``(out, r)``, and ``turn``, one number. The mean of the products is the
    product of the means in every round. A has no gradient while B is 0, so B comes first.
    Different from the paper: both factors are sent down, since a client may have missed the last round. The turn
    changes with each merge: a round that merges nothing is tried again. A trained head moves in every round.
    """

    name: ClassVar[str] = "RoLoRA"
    paper: ClassVar[str] = "Chen et al. 2025, arXiv 2502.01755"
    trains: ClassVar[str] = "LoRA: B (out, r) and A (r, in) by turns, for each target matrix"
    Config = OneFactorConfig

    def init_shared(self) -> PromptState:
        return PromptState({**self.start(), TURN: torch.zeros(1)})

    def trained_names(self, round: int, values: PromptState) -> Collection[str]:
        resting = (lambda name: not is_a(name)) if values[TURN].item() else is_a
        return [name for name in values if name != TURN and not (".lora_" in name and resting(name))]

    def uploads(self, client: int, sent: PromptState) -> Mapping[str, Shape]:
        return shapes(sent, self.trained_names(0, sent))

    def server_side(self, aggregator: Aggregator) -> Aggregator:
        return TakingTurns(aggregator)


class TakingTurns(AggregatorWrapper):
    """``inner``, after which the other factor's turn has come."""

    sees_each = False

    def broadcast(self, shared: PromptState, server: PromptState, client: int | None) -> PromptState:
        return PromptState({**self.inner.broadcast(shared, server, client), TURN: shared[TURN]})

    def apply(
        self, shared: PromptState, updates: Sequence[Update], server: PromptState
    ) -> tuple[PromptState, PromptState]:
        merged, server = self.inner.apply(shared, updates, server)
        return PromptState({**merged, TURN: 1 - shared[TURN]}), server
