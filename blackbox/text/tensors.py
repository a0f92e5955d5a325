"""Text and token lists as tensors of a PromptState, so that they travel, are stored and are counted like any prompt."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def text_tensor(text: str) -> Tensor:
    """Return the UTF-8 bytes of ``text``, ``(bytes,)`` uint8."""
    return torch.tensor(list(text.encode()), dtype=torch.uint8)


def text_of(tensor: Tensor) -> str:
    """Decode the text of a ``text_tensor``; bytes that are no UTF-8 become replacement characters."""
    return bytes(tensor.tolist()).decode(errors="replace")


def index_tensor(indices: Sequence[int]) -> Tensor:
    """Return token indices ``(n,)`` int16, or int32 where one is beyond 32,767."""
    return torch.tensor(list(indices), dtype=torch.int16 if max(indices, default=0) < 2**15 else torch.int32)
