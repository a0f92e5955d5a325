"""PromptFL with FedProx's proximal term (Li et al., MLSys 2020, arXiv 1812.06127)."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from promptfed.local_training import LocalObjective
from promptfed.method import METHODS
from promptfed.methods.promptfl import PromptFL, PromptFLConfig
from promptfed.prompt_state import PromptState
from promptfed.prompts.proximal import with_proximal_term
from promptfed.setup import Setup
from promptfed.types import Broadcast, ClientData


class FedProxConfig(PromptFLConfig):
    """PromptFL's options, and the strength of the pull."""

    mu: float = Field(0.5, ge=0, description="strength of the pull towards the received context; 0 is PromptFL")


@METHODS.register("fedprox")
class FedProx(PromptFL):
    """Each client minimises ``CE(ctx) + mu / 2 ||ctx - ctx_g||^2`` with ``ctx_g`` the context that it was sent.

    Shared: ``ctx`` ``(n_ctx, dim)``. Personal: nothing. The norm is that of the whole context, all tokens together.
    The papers that compare with this baseline take mu 0.5 to 1. Else as PromptFL.
    """

    name: ClassVar[str] = "PromptFL+FedProx"
    paper: ClassVar[str] = "Li et al. 2020, arXiv 1812.06127, on PromptFL"
    takes_sigmoid_loss: ClassVar[bool] = True
    example_dp: ClassVar[bool] = True
    Config = FedProxConfig

    def __init__(self, config: FedProxConfig, setup: Setup) -> None:
        super().__init__(config, setup)
        self.mu = config.mu

    def problem(self, broadcast: Broadcast, data: ClientData, personal: PromptState) -> LocalObjective:
        return with_proximal_term(super().problem(broadcast, data, personal), self.mu)
