"""Fed-PromptDT's prompt half: a soft trajectory prompt of a frozen decision transformer (Fed-PromptDT 2024)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from promptfed.backbones.base import freeze, hash_tensors
from promptfed.errors import ConfigError
from promptfed.method import METHODS, MethodConfig
from promptfed.policies.dt_network import PARTS, PIECE
from promptfed.policies.loading import load_basis
from promptfed.policies.prompt_basis import DIRECTIONS
from promptfed.prompt_state import PromptState
from promptfed.prompts.policy_method import PolicyConfig, PolicyMethod
from promptfed.setup import Setup
from promptfed.types import NO_PROMPT, Broadcast, ClientData


class PromptDTConfig(PolicyConfig):
    """Options of a soft trajectory prompt."""

    tokens: int = Field(PIECE * PARTS, ge=1, le=64, description="tokens of the prompt; 15: those of five slots")
    rank: int = Field(
        0, ge=0, le=DIRECTIONS, description="numbers of the prompt, the weights of so many directions; 0: its tokens"
    )
    personal: bool = Field(True, description="each client keeps an offset of the prompt of its own")


@METHODS.register("promptdt")
class PromptDT(PolicyMethod):
    """Clients train tokens that stand where a piece of a trajectory would; the server averages.

    Shared: ``prompt`` ``(tokens, width)``. It minimises, over stretches of five slots of a client's best episodes, the
    mean of -log p(action | prompt, returns, observations, actions before) of the resolutions, plus 4 times the
    Kullback-Leibler divergence of the shares of the bandwidth. Personal: ``offset`` of the same shape, which a client
    adds to the prompt and trains with .3 of the learning rate (``personal=false``: nothing).

    With ``rank=r`` a prompt is ``start + sum_k weights_k directions_k``. Start and directions are bundled: they were
    trained on public made-up cells, none of which is a task's. Shared are ``weights`` ``(r,)``, with twice the learning
    rate; ``offset`` ``(r,)`` is personal and is trained with .6 of the learning rate.

    Different from the paper: its federation trains all weights of the decision transformer, and its prompt is a real
    piece of a trajectory, which here is the baseline ``trajectory_prompt``. Here the transformer is trained before, on
    made-up cells, and frozen; what clients train and send is the prompt, and directions are ours. Its environment,
    constants and figures are not public: those of the task are our own.
    """

    name: ClassVar[str] = "PromptDT"
    paper: ClassVar[str] = "Fed-PromptDT 2024, arXiv 2402.09729"
    trains: ClassVar[str] = "trajectory prompt (tokens, 64), or weights of directions (rank,)"
    Config: ClassVar[type[MethodConfig]] = PromptDTConfig
    config: PromptDTConfig

    def __init__(self, config: PromptDTConfig, setup: Setup) -> None:
        super().__init__(config, setup)
        self._basis = None
        self._shape: tuple[int, ...] = (config.tokens, self.model.width)
        if config.rank:
            if config.tokens != PIECE * PARTS:
                raise ConfigError(
                    f"method option 'tokens' is {config.tokens}, and the directions of option 'rank' make "
                    f"{PIECE * PARTS} tokens: leave one of them out"
                )
            self._basis, self._shape = freeze(load_basis().to(self.model.device)), (config.rank,)

    @property
    def basis(self) -> str:
        return "" if self._basis is None else hash_tensors(self._basis.state_dict().items())

    @property
    def lr_multipliers(self) -> Mapping[str, float]:
        """Offsets move more slowly than what is shared, and weights of directions faster than tokens."""
        return {"weights": 2.0, "offset": 0.6 if self.config.rank else 0.3}

    def init_shared(self) -> PromptState:
        if self._basis is not None:
            return PromptState({"weights": torch.zeros(self._shape)})
        return PromptState({"prompt": self.model.neutral_tokens(self.config.tokens)})

    def tokens(self, tensors: Mapping[str, Tensor]) -> Tensor:
        shared = tensors["prompt" if self._basis is None else "weights"]
        numbers = shared + tensors["offset"] if "offset" in tensors else shared
        return numbers[None] if self._basis is None else self._basis(numbers[None])

    def init_personal(self, client: int) -> PromptState:
        if not self.config.personal:
            return NO_PROMPT
        return PromptState({"offset": torch.zeros(self._shape)})

    def start(self, broadcast: Broadcast, personal: PromptState) -> PromptState:
        return PromptState({**broadcast.shared, **personal})

    def split_update(
        self, trained: PromptState, broadcast: Broadcast, data: ClientData, personal: PromptState
    ) -> tuple[PromptState, PromptState]:
        offset = PromptState({name: tensor for name, tensor in trained.items() if name in personal})
        return PromptState({name: tensor for name, tensor in trained.items() if name not in personal}), offset
