"""Directions in which prompts of the bundled policy `dt` differ between cells, so that few numbers make a prompt."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from promptfed.policies.dt_network import PARTS, PIECE, WIDTH

DIRECTIONS = 64
"""Directions of the bundled basis: 32 that are trained, roughly the weightiest first, then 32 principal components."""
TOKENS = PIECE * PARTS


class PromptBasis(nn.Module):
    """A prompt is ``start`` and a weighted sum of directions; weights of about 1 are usual."""

    def __init__(self, directions: int = DIRECTIONS) -> None:
        super().__init__()
        self.start = nn.Parameter(torch.zeros(TOKENS, WIDTH))
        self.directions = nn.Parameter(torch.zeros(directions, TOKENS, WIDTH))

    def forward(self, weights: Tensor) -> Tensor:
        """Return the prompts ``(n, TOKENS, WIDTH)`` of weights ``(n, rank)`` of the first ``rank`` directions."""
        tokens: Tensor = self.start + torch.einsum("nr,rtw->ntw", weights, self.directions[: weights.shape[1]])
        return tokens
