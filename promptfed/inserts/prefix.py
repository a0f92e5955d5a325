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
    """

    peft_type: ClassVar[str] = "PREFIX_TUNING"

    def __init__(
        self, n: int, layers: int, kv_width: int, seed: int, *, text: Tensor | None = None, first_is_frozen: bool = True
    ) -> None:
        self.n, self.layers, self.kv_width, self.seed = n, layers, kv_width, seed
        self.text, self.first_is_frozen = text, first_is_frozen

    @property
    def shape(self) -> tuple[int, int]:
        """``(n, layers * 2 * kv_width)``."""
        return self.n, self.layers * 2 * self.kv_width

    def start(self, *purpose: str | int) -> PromptState:
        if self.text is not None:
            return PromptState({PREFIX: self.text})
        stream = torch_stream(self.seed, *purpose, "prefix")
        return PromptState({PREFIX: RANDOM_STD * torch.randn(self.shape, generator=stream)})

    def insert(self, values: Mapping[str, Tensor]) -> Insert:
        """Return the prefix; no gradient reaches its first token if that is frozen."""
        prefix = values[PREFIX]
        if self.first_is_frozen:
            prefix = torch.cat([prefix[:1].detach(), prefix[1:]])
        return Insert(prefix=prefix)

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
        return PromptState({PREFIX: insert.prefix})

    def peft_config(self, values: Mapping[str, Tensor]) -> dict[str, Any]:
        return {
            "peft_type": self.peft_type,
            "num_virtual_tokens": len(values[PREFIX]),
            "num_layers": self.layers,
            "prefix_projection": False,
        }
