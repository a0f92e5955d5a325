"""The layer that the bundled small transformers are made of."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class TransformerLayer(nn.Module):
    """Self-attention and a two-layer network, each behind a layer norm.

    Args:
        width: Numbers of a token.
        heads: Attention heads.
        causal: Whether a token sees those before it alone.
    """

    def __init__(self, width: int, heads: int, *, causal: bool = False) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.before_attention, self.before_network = nn.LayerNorm(width), nn.LayerNorm(width)
        self.project, self.join = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.widen, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return tokens ``(n, length, width)``."""
        n, length, width = tokens.shape
        heads = self.project(self.before_attention(tokens)).reshape(n, length, 3, self.heads, width // self.heads)
        query, key, value = heads.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=self.causal)
        tokens = tokens + self.join(mixed.transpose(1, 2).reshape(n, length, width))
        change: Tensor = self.narrow(F.gelu(self.widen(self.before_network(tokens))))
        return tokens + change
