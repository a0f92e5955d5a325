"""PromptFL with FedPer: some context tokens are merged, the others stay (Arivazhagan et al., arXiv 1912.00818)."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field

from promptfed.errors import ConfigError
from promptfed.local_training import LocalObjective
from promptfed.method import METHODS
from promptfed.methods.promptfl import PromptFL, PromptFLConfig
from promptfed.prompt_state import PromptState
from promptfed.setup import Setup
from promptfed.types import Broadcast, ClientData

PRIVATE = "private"


class FedPerConfig(PromptFLConfig):
    """PromptFL's options, and which tokens are private."""

    n_private: int = Field(4, ge=1, description="how many of the n_ctx tokens never leave the client")
    private_at: Literal["first", "last"] = Field("last", description="which end of the context is private")


@METHODS.register("fedper")
class FedPer(PromptFL):
    """The context is one sequence of tokens, of which ``n_private`` at one end are each client's own.

    Shared: ``ctx`` ``(n_ctx - n_private, dim)``. Personal: ``private`` ``(n_private, dim)``, once it has
    trained. Both are trained together by PromptFL's loss. Somebody who never took part has the untrained private
    tokens that everybody starts from.

    FedPer keeps a network's last layers private. PromptFolio's repository shares the first half of the tokens
    (``n_private`` of half of ``n_ctx``); here, too, the last tokens are private, but 4 of 16. They stand next to the
    class name.
    """

    name: ClassVar[str] = "PromptFL+FedPer"
    paper: ClassVar[str] = "Arivazhagan et al. 2019, arXiv 1912.00818, on PromptFL"
    keeps: ClassVar[str] = "images, n_private context tokens"
    Config = FedPerConfig

    def __init__(self, config: FedPerConfig, setup: Setup) -> None:
        super().__init__(config, setup)
        if config.n_private >= self.tuner.n_ctx:
            raise ConfigError(
                f"option 'n_private' is {config.n_private} of {self.tuner.n_ctx} context tokens: at least one must be "
                f"shared, so give 1 to {self.tuner.n_ctx - 1}, or promptfed train --method local_only to share none"
            )
        self.n_private, self.private_first = config.n_private, config.private_at == "first"
        self._untrained = self._split(self.tuner.start())[1]

    def init_shared(self) -> PromptState:
        return self._split(self.tuner.start())[0]

    def problem(self, broadcast: Broadcast, data: ClientData, personal: PromptState) -> LocalObjective:
        return self.tuner.problem(self._join(broadcast.shared, personal or self._untrained), data)

    def split_update(
        self, trained: PromptState, broadcast: Broadcast, data: ClientData, personal: PromptState
    ) -> tuple[PromptState, PromptState]:
        return self._split(trained)

    def text_contexts(self, shared: PromptState, personal: PromptState) -> PromptState:
        return self._join(shared, personal or self._untrained)

    def blend(self, shared: PromptState, personal: PromptState, alpha: float) -> PromptState | None:
        return self._untrained.interpolate(personal, alpha)

    def _split(self, prompt: PromptState) -> tuple[PromptState, PromptState]:
        """Split a whole context into (shared tokens, private tokens)."""
        ctx = prompt["ctx"]
        at = self.n_private if self.private_first else ctx.shape[-2] - self.n_private
        front, back = ctx[..., :at, :], ctx[..., at:, :]
        public, private = (back, front) if self.private_first else (front, back)
        return PromptState({"ctx": public}), PromptState({PRIVATE: private})

    def _join(self, shared: PromptState, personal: PromptState) -> PromptState:
        parts = [shared["ctx"], personal[PRIVATE]]
        return PromptState({"ctx": torch.cat(parts[::-1] if self.private_first else parts, dim=-2)})
