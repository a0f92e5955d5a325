"""pFedMoAP's gate: for every image and class, attention from the image to that class's texts by several prompts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from promptfed.prompt_state import PromptState

WIDTH = 128
"""Upper bound of the numbers of a thinned-out feature at the gate."""
HEADS = 8
PARTS = ("query", "key", "value", "output")


class Gate:
    """Multi-head attention whose weights ``(width, width)`` and biases ``(width,)`` live in a PromptState.

    A feature of ``embed_dim`` numbers is thinned out by taking every ``stride``-th: the paper's every 4th of 512 and
    8th of 1024 make 128. Narrower features are taken whole (128: stride 1); where 8 heads do not divide the width
    evenly, there are as many as do. Scores are ``scale`` times query . key, in place of ``1 / sqrt(head width)``.
    """

    def __init__(self, embed_dim: int, scale: float) -> None:
        self.stride = -(-embed_dim // WIDTH)
        self.width = -(-embed_dim // self.stride)
        self.heads = math.gcd(HEADS, self.width)
        self.scale = scale

    def start(self, init: Literal["identity", "xavier"], noise: torch.Generator) -> PromptState:
        """Return initial weights: "identity" is an attention-weighted mean of the texts, "xavier" is random."""
        tensors = {}
        for part in PARTS:
            bound = math.sqrt(3 / self.width)  # Xavier's, for a square matrix
            random = torch.empty(self.width, self.width).uniform_(-bound, bound, generator=noise)
            tensors[f"{part}.weight"] = torch.eye(self.width) if init == "identity" else random
            tensors[f"{part}.bias"] = torch.zeros(self.width)
        return PromptState({f"gate.{name}": tensor for name, tensor in tensors.items()})

    @staticmethod
    def weights(prompt: PromptState) -> PromptState:
        """Return the gate's part of a client's personal prompt; empty if it has none yet."""
        return PromptState({name: tensor for name, tensor in prompt.items() if name.startswith("gate.")})

    def thinned(self, features: Tensor) -> Tensor:
        """Thin features out: ``(..., embed_dim)`` -> ``(..., width)``."""
        return features[..., :: self.stride]

    def mixed(self, weights: Mapping[str, Tensor], images: Tensor, texts: Tensor) -> Tensor:
        """Return one text feature ``(batch, classes, width)`` for each image and class.

        Keys and values are projected once for all images. The order of experts does not matter.

        Args:
            weights: The gate's.
            images: Queries, ``(batch, width)``.
            texts: Keys and values, ``(experts, classes, width)``; each class by itself.
        """

        def project(part: str, inputs: Tensor) -> Tensor:
            return F.linear(inputs, weights[f"gate.{part}.weight"], weights[f"gate.{part}.bias"])

        heads = (self.heads, -1)
        query = project("query", images).unflatten(-1, heads)
        key, value = (project(part, texts).unflatten(-1, heads) for part in ("key", "value"))
        attention = torch.einsum("bhe,mche->bchm", query, key).mul(self.scale).softmax(-1)
        return project("output", torch.einsum("bchm,mche->bche", attention, value).flatten(-2))
