"""Visual prompt tokens and patch features for open_clip's own ViT."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from promptfed.backbones.base import PromptedImages


class PromptableViT:
    """An image tower whose feature is its class token, read after the last block.

    Visual prompt tokens have no position, so their place in the sequence does not matter (a ViT's attention is not
    causal): here they stand behind the patches. They join before the first normalisation (``ln_pre``), as in MaPLe. The
    visual prompts of FedTPG's comparison (its VLP) join after it.
    """

    def __init__(self, tower: Any) -> None:
        self._tower = tower
        self.width = int(tower.class_embedding.shape[0])
        self.layers = len(tower.transformer.resblocks)

    @classmethod
    def of(cls, tower: nn.Module) -> PromptableViT | None:
        """Wrap ``tower``; None if it is something else, such as a ResNet or a ViT with attention pooling."""
        from open_clip.transformer import ResidualAttentionBlock, VisionTransformer

        if not isinstance(tower, VisionTransformer):
            return None
        plain = all(isinstance(block, ResidualAttentionBlock) for block in tower.transformer.resblocks)
        is_supported = tower.attn_pool is None and tower.pool_type == "tok" and tower.transformer.batch_first
        return cls(tower) if plain and is_supported and not tower.final_ln_after_pool else None

    def prompted(self, pixels: Tensor, ctx: Tensor, deep: Tensor | None) -> PromptedImages:
        """Encode images under visual prompt tokens.

        Args:
            pixels: ``(batch, 3, height, width)``.
            ctx: ``(n, width)``, or of each image ``(batch, n, width)``.
            deep: ``(depth - 1, n, width)``.
        """
        tower = self._tower
        tokens = self._tokens(pixels)
        n_tokens = tokens.shape[1]
        x = tower.ln_pre(torch.cat([tokens, ctx.to(tokens).expand(tokens.shape[0], -1, -1)], dim=1))
        blocks = tower.transformer.resblocks
        for number, block in enumerate(blocks):
            if deep is not None and 1 <= number <= len(deep):
                fresh = deep[number - 1].to(x).expand(x.shape[0], -1, -1)
                x = torch.cat([x[:, :n_tokens], fresh], dim=1)
            if number == len(blocks) - 1:
                attention = self._attention(block, x[:, 0], x[:, n_tokens:])
            x = block(x)
        return PromptedImages((tower.ln_post(x[:, 0]) @ tower.proj).float(), attention)

    def inputs(self, pixels: Tensor) -> Tensor:
        """Return the patch tokens with their positions ``(batch, patches, width)`` float32, not normalised yet."""
        return self._tokens(pixels)[:, 1:].float()

    def patches(self, pixels: Tensor) -> Tensor:
        """Return ``(batch, patches, embed_dim)`` float32: every patch token, read as the class token is."""
        tower = self._tower
        x = tower.transformer(tower.ln_pre(self._tokens(pixels)))
        features: Tensor = (tower.ln_post(x[:, 1:]) @ tower.proj).float()
        return features

    def _tokens(self, pixels: Tensor) -> Tensor:
        """Return class and patch tokens with their positions, not normalised yet: ``(batch, 1 + patches, width)``."""
        tower = self._tower
        x = tower.conv1(pixels).flatten(2).transpose(1, 2)
        first = tower.class_embedding.to(x.dtype).expand(x.shape[0], 1, -1)
        tokens: Tensor = torch.cat([first, x], dim=1) + tower.positional_embedding.to(x.dtype)
        return tokens

    @staticmethod
    def _attention(block: Any, first: Tensor, prompts: Tensor) -> Tensor:
        """Return the class token's attention to the prompts in ``block``, averaged over heads: ``(batch, n)`` float32.

        Args:
            block: A block of the tower.
            first: The class token ``(batch, width)``.
            prompts: ``(batch, n, width)``; the softmax runs over them.
        """
        attention = block.attn
        sequence = block.ln_1(torch.cat([first[:, None], prompts], dim=1))
        query, key, _ = F.linear(sequence, attention.in_proj_weight, attention.in_proj_bias).chunk(3, -1)
        query, key = (part.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2) for part in (query, key))
        scores = (query[:, :, :1] @ key[:, :, 1:].transpose(-1, -2)).squeeze(2) / query.shape[-1] ** 0.5
        averaged: Tensor = scores.float().softmax(-1).mean(1)
        return averaged
