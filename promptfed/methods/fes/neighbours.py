"""The nearest other texts of each text, by the cosine of their embeddings, in bounded memory."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

MOST_COSINES = 1 << 22
"""Cosines that are in memory at a time (16 MB)."""


def centred(embeddings: Tensor) -> Tensor:
    """Return ``embeddings`` ``(n, dim)`` with their mean taken off, scaled to length 1."""
    return F.normalize(embeddings.float() - embeddings.float().mean(0), dim=-1)


def nearest_others(unit: Tensor, count: int) -> Tensor:
    """Return the rows of the ``count`` nearest others of each row, nearest first.

    Args:
        unit: Embeddings of length 1 ``(n, dim)``.
        count: How many; fewer where there are fewer others.

    Returns:
        ``(n, min(count, n - 1))``; of equally near rows, the first ones.
    """
    n = len(unit)
    count = max(0, min(count, n - 1))
    blocks = []
    for rows in torch.arange(n).split(max(1, MOST_COSINES // max(1, n))):
        cosines = unit[rows] @ unit.T
        cosines[torch.arange(len(rows)), rows] = -torch.inf
        # A stable sort, because topk leaves open which of equal values it takes.
        blocks.append(cosines.sort(dim=1, descending=True, stable=True).indices[:, :count])
    return torch.cat(blocks) if blocks else torch.empty(0, 0, dtype=torch.int64)


def by_nearness(texts: Tensor, labelled: Tensor) -> list[int]:
    """Return the rows of ``texts`` by their mean cosine to the labelled ones, largest first, of equal ones the first.

    Args:
        texts: Embeddings ``(n, dim)``.
        labelled: Embeddings ``(m, dim)``.
    """
    if not len(labelled):
        return list(range(len(texts)))
    # The mean of cosines is the cosine to the mean of unit vectors, times its length.
    means = F.normalize(texts.float(), dim=-1) @ F.normalize(labelled.float(), dim=-1).mean(0)
    rows: list[int] = means.sort(descending=True, stable=True).indices.tolist()
    return rows
