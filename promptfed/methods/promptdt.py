"""Fed-PromptDT's prompt half: a soft trajectory prompt of a frozen decision transformer (Fed-PromptDT 2024)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from promptfed.method import METHODS, MethodConfig
from promptfed.policies.dt_network import PARTS, PIECE
from promptfed.prompt_state import PromptState
from promptfed.prompts.policy_method import PolicyConfig, PolicyMethod
from promptfed.types import NO_PROMPT, Broadcast, ClientData


class PromptDTConfig(PolicyConfig):
    """Options of a soft trajectory prompt."""

    tokens: int = Field(PIECE * PARTS, ge=1, le=64, description="tokens of the prompt; 15: those of five slots")
    personal: bool = Field(True, description="each client keeps an offset of the prompt of its own")


@METHODS.register("promptdt")
class PromptDT(PolicyMethod):
    """Clients train tokens that stand where a piece of a trajectory would; the server averages.

    Shared: ``prompt`` ``(tokens, width)``. It minimises, over stretches of five slots of a client's best episodes, the
    mean of -log p(action | prompt, returns, observations, actions before) of the resolutions, plus 4 times the
    Kullback-Leibler divergence of the shares of the bandwidth. Personal: ``offset`` of the same shape, which a client
    adds to the prompt and trains with .3 of the learning rate (``personal=false``: nothing).

    Different from the paper: its federation trains all weights of the decision transformer, and its prompt is a real
    piece of a trajectory, which here is the baseline ``trajectory_prompt``. Here the transformer is trained before, on
    made-up cells, and frozen; what clients train and send is the prompt. Its environment, constants and figures are not
    public: those of the task are our own.
    """

    name: ClassVar[str] = "PromptDT"
    paper: ClassVar[str] = "Fed-PromptDT 2024, arXiv 2402.09729"
    trains: ClassVar[str] = "trajectory prompt (tokens, 64)"
    lr_multipliers: ClassVar[Mapping[str, float]] = {"offset": 0.3}
    Config: ClassVar[type[MethodConfig]] = PromptDTConfig
    config: PromptDTConfig

    def init_shared(self) -> PromptState:
        return PromptState({"prompt": self.model.neutral_tokens(self.config.tokens)})

    def tokens(self, tensors: Mapping[str, Tensor]) -> Tensor:
        prompt = tensors["prompt"]
        return (prompt + tensors["offset"] if "offset" in tensors else prompt)[None]

    def init_personal(self, client: int) -> PromptState:
        if not self.config.personal:
            return NO_PROMPT
        return PromptState({"offset": torch.zeros(self.config.tokens, self.model.width)})

    def start(self, broadcast: Broadcast, personal: PromptState) -> PromptState:
        return PromptState({**broadcast.shared, **personal})

    def split_update(
        self, trained: PromptState, broadcast: Broadcast, data: ClientData, personal: PromptState
    ) -> tuple[PromptState, PromptState]:
        own = PromptState({name: tensor for name, tensor in trained.items() if name in personal})
        return PromptState({name: tensor for name, tensor in trained.items() if name not in personal}), own
