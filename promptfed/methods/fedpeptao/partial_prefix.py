"""A prefix in two parts: the layers whose keys and values are shared, and the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from promptfed.inserts.prefix import PREFIX, Prefix

LAYERS, REST = "layers", "rest"
"""Names of the shared layers' numbers ``(s,)``, rising, and of the columns of all other layers."""


class PartialPrefix(Prefix):
    """A prefix of which ``prompt_embeddings`` holds the ``layers`` that are named, and ``rest`` the others.

    Where no ``layers`` are named, ``prompt_embeddings`` holds all.
    """

    rest_is_frozen = False
    """Whether nobody trains the ``rest``."""

    def rest_columns(self, layers: Sequence[int]) -> Tensor:
        """Return the columns of all layers but ``layers``."""
        others = [layer for layer in range(self.layers) if layer not in set(layers)]
        return self.columns(others) if others else torch.zeros(0, dtype=torch.int64)

    def whole(self, values: Mapping[str, Tensor]) -> Tensor:
        """Return the prefix of all layers ``(n, layers * 2 * kv_width)``; gradients reach both parts."""
        if LAYERS not in values:
            return values[PREFIX]
        layers = [int(layer) for layer in values[LAYERS]]
        order = torch.cat([self.columns(layers), self.rest_columns(layers)])
        return torch.cat([values[PREFIX], values[REST]], 1)[:, order.argsort().to(values[PREFIX].device)]

    def frozen_below(self, values: Mapping[str, Tensor]) -> int:
        return int(values[LAYERS].min()) if self.rest_is_frozen and LAYERS in values else 0

    def peft_tensors(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        others = {name: tensor for name, tensor in values.items() if name not in (LAYERS, REST)}
        return {**others, PREFIX: self.whole(values)}
