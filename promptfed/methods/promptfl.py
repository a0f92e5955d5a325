"""PromptFL: federated learning of one shared text context (Guo et al., arXiv 2208.11625; TMC 2023)."""

from __future__ import annotations

from typing import ClassVar

from promptfed.method import METHODS, MethodConfig
from promptfed.prompts.text_context import ContextConfig, ContextMethod


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
    takes_sigmoid_loss: ClassVar[bool] = True
    example_dp: ClassVar[bool] = True
    Config: ClassVar[type[MethodConfig]] = PromptFLConfig
