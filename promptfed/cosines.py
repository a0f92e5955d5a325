"""Cosines of image and text features, by which most methods on dual encoders predict."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def cosine_logits(image_features: Tensor, text_features: Tensor, scale: float) -> Tensor:
    """``scale * cos``: ``(n, dim)`` and ``(classes, dim)`` -> ``(n, classes)``."""
    return scale * F.normalize(image_features, dim=-1) @ F.normalize(text_features, dim=-1).T


def mixed_features(general: Tensor, own: Tensor, alpha: float) -> Tensor:
    """``N((1 - alpha) general + alpha own)``, row by row; unit features ``(classes, embed_dim)`` in and out."""
    return F.normalize(torch.lerp(general, own, alpha), dim=-1)
