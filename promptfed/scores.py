"""What scores say: the class that fits best, or that there was no answer.

An example that a black box did not answer (it refused the text, or said nothing of use) has NaN in the place of its
scores. It is never taken for any class.
"""

from __future__ import annotations

from torch import Tensor

NO_CLASS = -1
"""What is predicted for an example that was not answered."""


def is_answered(scores: Tensor) -> Tensor:
    """Return ``(...)`` bool: whether each row of ``scores`` ``(..., classes)`` is an answer."""
    return ~scores.isnan().any(-1)


def predicted(scores: Tensor) -> Tensor:
    """Return ``(...)`` int64, the best class of each row of ``scores`` ``(..., classes)``, ``NO_CLASS`` without one."""
    return scores.argmax(-1).where(is_answered(scores), NO_CLASS)


def as_if_uniform(scores: Tensor) -> Tensor:
    """Return ``scores`` with zeros in rows without an answer: they tell no class from another, and have no slope."""
    return scores.where(is_answered(scores)[..., None], 0.0)
