"""Nested prompts: the first tokens of one prompt are a prompt too, for weak devices (after Yi et al. 2024, FedMRL)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from pydantic import Field, model_validator
from torch import Tensor

from promptfed.inserts.soft_prompt import EMBEDDINGS
from promptfed.local_training import LocalObjective
from promptfed.method import METHODS
from promptfed.prompt_state import PromptState
from promptfed.prompts.soft_prompt_method import SoftPromptConfig, SoftPromptMethod
from promptfed.types import Broadcast, ClientData, Split


class FedMRLConfig(SoftPromptConfig):
    """Options of nested prompts."""

    n_tokens: int = Field(20, ge=1, le=512, description="vectors of the prompt")
    lengths: tuple[int, ...] = Field((1, 5, 20), min_length=1, description="tokens of each nested prompt, rising")
    deployed: int | None = Field(None, ge=1, description="tokens that clients predict with; none: all")

    @model_validator(mode="after")
    def _lengths_rise_to_all(self) -> FedMRLConfig:
        if list(self.lengths) != sorted(set(self.lengths)) or self.lengths[0] < 1 or self.lengths[-1] != self.n_tokens:
            raise ValueError(f"lengths must rise from 1 or more to n_tokens, which is {self.n_tokens}")
        if self.deployed is not None and self.deployed > self.n_tokens:
            raise ValueError(f"deployed must be at most n_tokens, which is {self.n_tokens}")
        return self


@METHODS.register("fedmrl")
class FedMRL(SoftPromptMethod):
    """One prompt whose first m tokens are a prompt as well, for each m in ``lengths``: short ones are cheaper to use.

    The loss is the mean over m of the cross-entropy with the first m tokens. So the first token learns from every
    length, and the last only from the longest.

    Shared: ``prompt_embeddings`` ``(n, width)``, and with head=linear one head for all lengths. Personal: nothing.
    ``deployed`` tokens predict; any other length in ``lengths`` can be taken later from the same prompt.

    Different from the paper: FedMRL trains a small model that all share beside each client's private one, and fuses
    their features for nested heads. A frozen model leaves its idea: nested representations, of which one trains all.
    """

    name: ClassVar[str] = "FedMRL (nested prompts)"
    paper: ClassVar[str] = "after Yi et al. 2024, arXiv 2406.00488"
    trains: ClassVar[str] = "soft prompt (n, width), of which the first tokens are prompts too"
    classes_apart: ClassVar[bool] = True
    Config = FedMRLConfig
    config: FedMRLConfig

    def problem(self, broadcast: Broadcast, data: ClientData, personal: PromptState) -> LocalObjective:
        def loss(parameters: Mapping[str, Tensor], features: Sequence[Tensor], rows: Tensor) -> tuple[Tensor, Tensor]:
            terms = [self.loss_on(shortened(parameters, m), data.train, rows) for m in self.config.lengths]
            return torch.stack([term for term, _ in terms]).mean(), terms[-1][1]

        return LocalObjective(broadcast.shared, data.train.labels, loss)

    def logits(self, shared: PromptState, personal: PromptState, classes: Sequence[str], split: Split) -> Tensor:
        return self.scores_with(self.one_insert(shared, personal), classes, split)

    def one_insert(self, shared: PromptState, personal: PromptState) -> PromptState:
        return PromptState(shortened(shared, self.config.deployed or self.config.n_tokens))


def shortened(tensors: Mapping[str, Tensor], m: int) -> dict[str, Tensor]:
    """Return ``tensors`` with the first m tokens of the prompt."""
    return {name: tensor[:m] if name == EMBEDDINGS else tensor for name, tensor in tensors.items()}
