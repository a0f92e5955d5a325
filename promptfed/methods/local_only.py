"""The baseline without federation: every client tunes a context of its own on its own images (CoOp)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from promptfed.methods.base import METHODS, Method, Setup
from promptfed.methods.context import ContextConfig, ContextTuner
from promptfed.prompts import PromptState
from promptfed.types import NO_PROMPT, Broadcast, ClientData, Update


@METHODS.register("local_only")
class LocalOnly(Method):
    """The same training, for the same number of steps, as PromptFL; nothing is sent or merged.

    Shared: nothing. Personal: ``ctx`` ``(n_ctx, dim)``.
    """

    name: ClassVar[str] = "local-only"
    paper: ClassVar[str] = "CoOp: Zhou et al. 2022, arXiv 2109.01134"
    Config = ContextConfig

    def __init__(self, config: ContextConfig, setup: Setup) -> None:
        super().__init__(config, setup)
        self.tuner = ContextTuner(config, setup)

    def init_personal(self, client: int) -> PromptState:
        return self.tuner.start()

    def train(self, broadcast: Broadcast, data: ClientData, personal: PromptState) -> tuple[Update, PromptState]:
        prompt, fit = self.tuner.train(personal, data, broadcast.round)
        return Update(data.client, NO_PROMPT, len(data.train), fit.loss, fit.accuracy), prompt

    def class_features(self, shared: PromptState, personal: PromptState, classes: Sequence[str]) -> Tensor:
        return self.tuner.class_features(personal, classes)
