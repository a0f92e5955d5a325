"""Differences of updates from the shared prompt, by name or as one row of numbers. All in float64."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from promptfed.prompt_state import PromptState
from promptfed.types import Update


def difference(shared: PromptState, update: Update) -> dict[str, Tensor]:
    """Return ``update - shared``, name by name, of the tensors in the update."""
    return {name: tensor.double() - shared[name].double() for name, tensor in update.shared.items()}


def difference_rows(shared: PromptState, updates: Sequence[Update]) -> Tensor:
    """Return each update's difference as one row, ``(updates, values of shared)``; a missing tensor is unchanged."""
    rows = []
    for update in updates:
        delta = difference(shared, update)
        parts = [delta.get(name, torch.zeros_like(tensor, dtype=torch.float64)) for name, tensor in shared.items()]
        rows.append(torch.cat([part.flatten() for part in parts]) if parts else torch.zeros(0, dtype=torch.float64))
    return torch.stack(rows)


def presence_rows(shared: PromptState, updates: Sequence[Update]) -> Tensor:
    """Return which values of ``shared`` each update holds, ``(updates, values of shared)``, 1 or 0."""
    sizes = torch.tensor([tensor.numel() for tensor in shared.values()], dtype=torch.int64)
    held = torch.tensor([[float(name in update.shared) for name in shared] for update in updates], dtype=torch.float64)
    return held.reshape(len(updates), len(shared)).repeat_interleave(sizes, dim=1)


def from_row(shared: PromptState, row: Tensor) -> dict[str, Tensor]:
    """Return ``row`` ``(values of shared,)`` as tensors with the names and shapes of ``shared``."""
    parts = row.split([tensor.numel() for tensor in shared.values()]) if len(shared) else []
    return {name: part.reshape(shared[name].shape) for name, part in zip(shared, parts, strict=True)}


def pairwise_distances(rows: Tensor) -> Tensor:
    """Return the Euclidean distances ``(n, n)`` between ``rows`` ``(n, values)``."""
    # The matrix-product shortcut loses half of the digits where points lie close together.
    return torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist")
