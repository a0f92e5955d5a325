"""The network of the bundled forecaster `tst`: a transformer over patches of one series, past and future."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from promptfed.transformer_layer import TransformerLayer

PATCH = 12
"""Steps of a token."""
PAST, FUTURE = 14, 4
"""Most tokens of the past and of the future."""
LONGEST_HISTORY, LONGEST_HORIZON = PAST * PATCH, FUTURE * PATCH
QUANTILES = (0.1, 0.5, 0.9)
WIDTH, HEADS, LAYERS = 64, 4, 3


class TstNetwork(nn.Module):
    """Quantiles of the future of single series.

    Each step is a value with a trust: 1 in the past where it was observed, 0 where it is missing; in the future the
    value is a guess, from 0 (none) to 1 (as sure as an observation). Values are multiplied by their trust.
    """

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(2 * PATCH, WIDTH)
        self.places = nn.Parameter(0.02 * torch.randn(PAST + FUTURE, WIDTH))
        self.layers = nn.ModuleList(TransformerLayer(WIDTH, HEADS) for _ in range(LAYERS))
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, PATCH * len(QUANTILES))

    def forward(self, values: Tensor, trust: Tensor) -> Tensor:
        """Return quantiles ``(n, future, QUANTILES)``, in the scale of the values.

        Args:
            values: ``(n, LONGEST_HISTORY + future)``, in a scale in which the past has mean 0 and deviation 1.
            trust: The same shape, 0..1.
        """
        n = len(values)
        tokens = torch.cat([(values * trust).reshape(n, -1, PATCH), trust.reshape(n, -1, PATCH)], -1)
        states = self.embed(tokens) + self.places[: tokens.shape[1]]
        for layer in self.layers:
            states = layer(states)
        future: Tensor = self.head(self.norm(states[:, PAST:]))
        return future.reshape(n, -1, len(QUANTILES))
