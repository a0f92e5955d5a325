"""The network of the bundled forecaster `tst`: a transformer over patches of one series, past and future."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

PATCH = 12
"""Steps of a token."""
PAST, FUTURE = 14, 4
"""Most tokens of the past and of the future."""
LONGEST_HISTORY, LONGEST_HORIZON = PAST * PATCH, FUTURE * PATCH
QUANTILES = (0.1, 0.5, 0.9)
WIDTH, HEADS, LAYERS = 64, 4, 3


class Layer(nn.Module):
    """Self-attention over all tokens and a two-layer network, each behind a layer norm."""

    def __init__(self) -> None:
        super().__init__()
        self.before_attention, self.before_network = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.project, self.join = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.widen, self.narrow = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return tokens ``(n, length, WIDTH)``."""
        n, length, _ = tokens.shape
        heads = self.project(self.before_attention(tokens)).reshape(n, length, 3, HEADS, WIDTH // HEADS)
        query, key, value = heads.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value)
        tokens = tokens + self.join(mixed.transpose(1, 2).reshape(n, length, WIDTH))
        change: Tensor = self.narrow(F.gelu(self.widen(self.before_network(tokens))))
        return tokens + change


class TstNetwork(nn.Module):
    """Quantiles of the future of single series.

    Each step is a value with a trust: 1 in the past where it was observed, 0 where it is missing; in the future the
    value is a guess, from 0 (none) to 1 (as sure as an observation). Values are multiplied by their trust.
    """

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(2 * PATCH, WIDTH)
        self.places = nn.Parameter(0.02 * torch.randn(PAST + FUTURE, WIDTH))
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))
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
