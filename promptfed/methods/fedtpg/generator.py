"""FedTPG's network: from the embeddings of a set of class names to context tokens (Qiu et al. 2024, section 3.2)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

WIDENING = 4
"""Width of a feed-forward block's inner layer, in widths; twice as many come in, half of them as gates."""


class Attention(nn.Module):
    """``MHA(LN(x), LN(context))`` without a residual; without ``context_width`` over ``x`` itself."""

    def __init__(self, width: int, heads: int, context_width: int | None = None) -> None:
        super().__init__()
        self.fn = nn.MultiheadAttention(width, heads, kdim=context_width, vdim=context_width)
        self.norm = nn.LayerNorm(width)
        self.norm_context = nn.LayerNorm(context_width) if context_width else None

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        query = self.norm(x)
        keys = query if self.norm_context is None else self.norm_context(context)
        attended: Tensor = self.fn(query, keys, keys, need_weights=False)[0]
        return attended


class GatedGelu(nn.Module):
    """``value * gelu(gate)``; the values are the first half of the input, the gates the second."""

    def forward(self, x: Tensor) -> Tensor:
        value, gate = x.chunk(2, dim=-1)
        return value * F.gelu(gate)


class FeedForward(nn.Module):
    """``W3 GEGLU(W1 LN(x) + b1) + b3``."""

    def __init__(self, width: int) -> None:
        super().__init__()
        inner = WIDENING * width
        self.net = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 2 * inner), GatedGelu(), nn.Linear(inner, width))

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.net(x)
        return output


class PromptTranslator(nn.Module):
    """Class embeddings ``(classes, embed_dim)`` -> contexts ``(prompt_depth, n_ctx, width)``.

    Learned queries attend to the class embeddings, which have no positions: the order of the names does not matter.
    ``layers`` adds as many blocks of self-attention and feed-forward, with residuals. The submodules' names give the
    parameters the names that they have in the released checkpoints. Where ``embed_dim`` is not ``width`` (never so in
    the paper), keys and values have projections of their own instead of a part of the packed ``in_proj_weight``.
    """

    def __init__(self, width: int, embed_dim: int, n_ctx: int, prompt_depth: int, layers: int, heads: int) -> None:
        super().__init__()
        self.shape = (prompt_depth, n_ctx, width)
        self.soft_prompt = nn.Parameter(torch.empty(prompt_depth * n_ctx, width))
        first = nn.ModuleList([Attention(width, heads, embed_dim), FeedForward(width)])
        further = [nn.ModuleList([Attention(width, heads), FeedForward(width)]) for _ in range(layers)]
        self.encoder = nn.ModuleDict({"cross_attend_blocks": first})
        self.transformer = nn.ModuleDict({"layers": nn.ModuleList(further)})

    def forward(self, embeddings: Tensor) -> Tensor:
        attend, feed = self.encoder["cross_attend_blocks"].children()
        y: Tensor = attend(self.soft_prompt, embeddings)
        y = y + feed(y)
        for layer in self.transformer["layers"].children():
            attend, feed = layer.children()
            y = y + attend(y)
            y = y + feed(y)
        return y.view(self.shape)


PREFIX = "meta_net."
"""Prefix of every name in the released checkpoints."""


STARTING_NEUTRAL = ("norm", "norm_context", "net.0", "out_proj")
"""Layers whose gains start at 1 and whose biases start at 0: normalisations, and attention's output for its bias."""


class ContextGenerator:
    """The network as a function of its parameters, which have the names of the released checkpoints."""

    def __init__(
        self, width: int, embed_dim: int, *, n_ctx: int = 4, prompt_depth: int = 1, layers: int = 0, heads: int = 4
    ) -> None:
        """Lay out the network's parameters.

        Raises:
            ValueError: ``heads`` does not divide ``width``.
        """
        if width % heads:
            raise ValueError(f"{heads} heads do not divide a width of {width}")
        # On the meta device: the parameters come with each call, and making them must not draw random numbers.
        with torch.device("meta"):
            self._net = PromptTranslator(width, embed_dim, n_ctx, prompt_depth, layers, heads)
        self.shapes = {PREFIX + name: tuple(p.shape) for name, p in self._net.named_parameters()}

    def __call__(self, parameters: Mapping[str, Tensor], embeddings: Tensor) -> Tensor:
        """Return contexts ``(prompt_depth, n_ctx, width)``, differentiable in all ``parameters``."""
        by_name = {name.removeprefix(PREFIX): tensor for name, tensor in parameters.items()}
        contexts: Tensor = functional_call(self._net, by_name, (embeddings,), strict=True)
        return contexts

    def start(self, draw: torch.Generator) -> dict[str, Tensor]:
        """Return initial parameters: queries from N(0, 0.02), the rest as PyTorch's modules start, from ``draw``."""
        return initial_parameters(self.shapes, draw)


def initial_parameters(shapes: Mapping[str, tuple[int, ...]], draw: torch.Generator) -> dict[str, Tensor]:
    """Return a network's initial parameters: learned queries from N(0, 0.02), the rest as PyTorch's modules start.

    Args:
        shapes: Of the parameters by name; an attention is called ``fn``, learned queries ``soft_prompt``.
        draw: The random stream.
    """
    parameters: dict[str, Tensor] = {}
    for name, shape in shapes.items():
        layer, _, kind = name.rpartition(".")
        if name == PREFIX + "soft_prompt":
            parameters[name] = 0.02 * torch.randn(shape, generator=draw)
        elif len(shape) == 1 and (kind == "in_proj_bias" or layer.endswith(STARTING_NEUTRAL)):
            parameters[name] = torch.full(shape, float(kind == "weight"))
        else:
            # The attention's projections: Xavier. Linear layers, weight and bias: by the number of inputs.
            bound = math.sqrt(6 / sum(shape)) if layer.endswith(".fn") else shapes[f"{layer}.weight"][1] ** -0.5
            parameters[name] = torch.empty(shape).uniform_(-bound, bound, generator=draw)
    return parameters
