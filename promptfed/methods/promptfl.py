"""PromptFL: federated learning of one shared text context (Guo et al., arXiv 2208.11625; TMC 2023)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from promptfed.methods.base import METHODS, MethodConfig
from promptfed.methods.context import ContextConfig, ContextMethod
from promptfed.methods.local_training import Problem
from promptfed.prompts import PromptState
from promptfed.types import Broadcast, ClientData


class PromptFLConfig(ContextConfig):
    """PromptFL's options; see docs/methods.md for the paper's values."""


@METHODS.register("promptfl")
class PromptFL(ContextMethod):
    """Clients run CoOp on their own images; the server averages the contexts, weighted by sample count.

    Shared: ``ctx`` ``(n_ctx, dim)``, or ``(classes, n_ctx, dim)`` class-specific. Personal: nothing.
    Different from the paper: image features are computed once, without augmentation, which makes them exact to
    cache; masters are float32; the optimiser starts afresh each round; Adam is the default.
    """

    name: ClassVar[str] = "PromptFL"
    paper: ClassVar[str] = "Guo et al. 2022, arXiv 2208.11625"
    trains: ClassVar[str] = "text context (n_ctx, dim)"
    Config: ClassVar[type[MethodConfig]] = PromptFLConfig

    def problem(self, broadcast: Broadcast, data: ClientData, personal: PromptState) -> Problem:
        return self.tuner.problem(broadcast.shared, data)

    def conclude(
        self, trained: PromptState, broadcast: Broadcast, data: ClientData, personal: PromptState
    ) -> tuple[PromptState, PromptState]:
        return trained, personal

    def class_features(self, shared: PromptState, personal: PromptState, classes: Sequence[str]) -> Tensor:
        return self.tuner.class_features(shared, classes)
