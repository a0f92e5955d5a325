"""Rows that are read together: of like lengths, so that little padding is read, and padded."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

TOKENS_AT_ONCE = 4096
"""Tokens of one pass, padding included."""
WORTH = 64
"""Tokens of padding that cost about what one more pass does."""


def row_batches(lengths: Sequence[int], most: int = TOKENS_AT_ONCE) -> list[list[int]]:
    """Return the numbers of the rows, in batches of rising lengths.

    A batch ends where one more row would add more padding than a pass costs, or where it would hold over ``most``
    tokens.
    """
    batches: list[list[int]] = []
    padding = 0
    for row in sorted(range(len(lengths)), key=lambda k: lengths[k]):
        if batches:
            batch, length = batches[-1], lengths[row]
            padding += len(batch) * (length - lengths[batch[-1]])
            if padding <= WORTH and (len(batch) + 1) * length <= most:
                batch.append(row)
                continue
        batches.append([row])
        padding = 0
    return batches


def padded_rows(vectors: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return rows of vectors ``(rows, longest, width)`` padded on the right, and where they are no padding."""
    lengths = torch.tensor([len(row) for row in vectors], device=vectors[0].device)
    longest = int(lengths.max())
    padded = torch.stack([F.pad(row, (0, 0, 0, longest - len(row))) for row in vectors])
    return padded, torch.arange(longest, device=lengths.device) < lengths[:, None]
