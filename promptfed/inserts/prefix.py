"""Prefix tuning: trained keys and values before those of the text in every layer (Li and Liang 2021, arXiv 2101.00190).

Without the paper's re-parameterisation it is also P-tuning v2 (Liu et al. 2022, arXiv 2110.07602).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from promptfed.errors import ConfigError
from promptfed.inserts.base import InsertKind, check_shape
from promptfed.language_models.insert import Insert
from promptfed.prompt_state import PromptState
from promptfed.seeding import torch_stream

PREFIX = "prompt_embeddings"
RANDOM_STD = 0.02


class Prefix(InsertKind):
    """Keys and values ``(n, layers * 2 * kv_width)`` in the order token, layer, (key, value), head, head size.

    Those of layers below ``lowest`` stay what they start as, and are not among the values.

    Random keys lie far from a model's own, and zeros are no way to leave a layer out: a key of zeros takes its share of
    the attention. So training starts from the keys and values that the model itself keeps of a text; before a causal
    model these do just what the text would do.

    Args:
        n: Tokens.
        layers: The model's.
        kv_width: Heads of keys times head size.
        seed: The run's.
        text: Keys and values ``(n, layers * 2 * kv_width)`` to start from, as ``keys_and_values`` gives them. None:
            random ones, of standard deviation 0.02, for comparison.
        first_is_frozen: Whether the first token stays as it starts: a model attends to its first token whatever that
            says (an attention sink), and training takes this away.
        lowest: The lowest layer that is trained.
    """

    peft_type: ClassVar[str] = "PREFIX_TUNING"

    def __init__(
        self,
        n: int,
        layers: int,
        kv_width: int,
        seed: int,
        *,
        text: Tensor | None = None,
        first_is_frozen: bool = True,
        lowest: int = 0,
    ) -> None:
        self.n, self.layers, self.kv_width, self.seed = n, layers, kv_width, seed
        self.text, self.first_is_frozen = text, first_is_frozen
        self._below = self._first_values()[:, : lowest * 2 * kv_width]

    @property
    def shape(self) -> tuple[int, int]:
        """``(n, layers * 2 * kv_width)``, of all layers."""
        return self.n, self.layers * 2 * self.kv_width

    def start(self, *purpose: str | int) -> PromptState:
        return PromptState({PREFIX: self._first_values(*purpose)[:, self._below.shape[1] :]})

    def _first_values(self, *purpose: str | int) -> Tensor:
        if self.text is not None:
            return self.text
        return RANDOM_STD * torch.randn(self.shape, generator=torch_stream(self.seed, *purpose, "prefix"))

    def whole(self, values: Mapping[str, Tensor]) -> Tensor:
        """Return the prefix of all layers ``(n, layers * 2 * kv_width)``; gradients flow through."""
        top = values[PREFIX]
        return torch.cat([self._below.to(top), top], 1) if self._below.shape[1] else top

    def frozen_below(self, values: Mapping[str, Tensor]) -> int:
        """Return how many layers lie below all those that are trained."""
        return self._below.shape[1] // (2 * self.kv_width)

    def insert(self, values: Mapping[str, Tensor]) -> Insert:
        """Return the prefix; no gradient reaches its first token if that is frozen."""
        prefix = self.whole(values)
        if self.first_is_frozen:
            prefix = torch.cat([prefix[:1].detach(), prefix[1:]])
        return Insert(prefix=prefix, frozen_below=self.frozen_below(values))

    def columns(self, layers: Sequence[int]) -> Tensor:
        """Return the columns ``(len(layers) * 2 * kv_width,)`` of the keys and values of ``layers``, in their order."""
        width = 2 * self.kv_width
        return torch.cat([torch.arange(layer * width, (layer + 1) * width) for layer in layers])

    def start_from(self, insert: Insert) -> PromptState:
        if insert.prefix is None:
            raise ConfigError("holds no prefix of keys and values, which is what this method trains")
        same_width = insert.prefix.shape[1] == self.shape[1]
        fix = f"--set method.n_tokens={len(insert.prefix)}" if same_width else "it is for another model"
        check_shape("a prefix", insert.prefix.shape, self.shape, fix)
        below = self._below.shape[1]
        if not torch.equal(insert.prefix[:, :below].cpu(), self._below):
            raise ConfigError("has other keys and values in layers that this method leaves alone: method.layers=all")
        return PromptState({PREFIX: insert.prefix[:, below:]})

    def peft_config(self, values: Mapping[str, Tensor]) -> dict[str, Any]:
        return {
            "peft_type": self.peft_type,
            "num_virtual_tokens": len(values[PREFIX]),
            "num_layers": self.layers,
            "prefix_projection": False,
        }

    def peft_tensors(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {**values, PREFIX: self.whole(values)}
