"""The baseline without federation: every client tunes a context of its own on its own images (CoOp)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from promptfed.backbones.base import PromptedText
from promptfed.local_training import GradientMethod, LocalObjective
from promptfed.method import METHODS
from promptfed.prompt_state import PromptState
from promptfed.prompts.text_context import ContextConfig, ContextTuner
from promptfed.setup import Setup
from promptfed.types import NO_PROMPT, Broadcast, ClientData


@METHODS.register("local_only")
class LocalOnly(GradientMethod):
    """The same training, for the same number of steps, as PromptFL; nothing is sent or merged.

    Shared: nothing. Personal: ``ctx`` ``(n_ctx, dim)``. Somebody who never took part has the untrained context.
    """

    name: ClassVar[str] = "local-only"
    paper: ClassVar[str] = "CoOp: Zhou et al. 2022, arXiv 2109.01134"
    trains: ClassVar[str] = "text context (n_ctx, dim)"
    keeps: ClassVar[str] = "images, context"
    classes_apart: ClassVar[bool] = True
    aggregators: ClassVar[tuple[str, ...]] = ("mean",)
    takes_sigmoid_loss: ClassVar[bool] = True
    Config = ContextConfig

    def __init__(self, config: ContextConfig, setup: Setup) -> None:
        super().__init__(config, setup)
        self.tuner = ContextTuner(config, setup)

    def init_personal(self, client: int) -> PromptState:
        return self.tuner.start()

    def problem(self, broadcast: Broadcast, data: ClientData, personal: PromptState) -> LocalObjective:
        return self.tuner.problem(personal, data)

    def split_update(
        self, trained: PromptState, broadcast: Broadcast, data: ClientData, personal: PromptState
    ) -> tuple[PromptState, PromptState]:
        return NO_PROMPT, trained

    def text_contexts(self, shared: PromptState, personal: PromptState) -> PromptState:
        return personal if len(personal) else self.tuner.start()

    def texts(self, shared: PromptState, personal: PromptState, classes: Sequence[str]) -> Sequence[PromptedText]:
        return self.tuner.texts(self.text_contexts(shared, personal), classes)
