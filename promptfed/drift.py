"""How far a round moves the shared prompt."""

from __future__ import annotations

import math

from promptfed.prompt_state import PromptState


def relative_change(before: PromptState, after: PromptState) -> float:
    """Return the L2 distance of two states beside the norm of ``before``, over their tensors of real numbers.

    NaN where there is nothing to compare: no such tensors (texts, tokens), other shapes, or nothing but zeros before.
    """
    names = [name for name, tensor in before.items() if tensor.is_floating_point()]
    if any(name not in after or after[name].shape != before[name].shape for name in names):
        return math.nan
    moved = sum(float((after[name].double() - before[name].double()).square().sum()) for name in names)
    norm = sum(float(before[name].double().square().sum()) for name in names)
    return math.sqrt(moved / norm) if norm > 0 else math.nan
