"""Normalised precision: how much of what k choices could give is in the k that are made."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from promptfed.measures.base import MEASURES
from promptfed.measures.ranking import RankingMeasure, share


@MEASURES.register("np")
class NormalizedPrecision(RankingMeasure):
    """Sum of the grades of the k best classes, divided by that of the k greatest grades: np:1 (FeB4RAG, nP@k)."""

    kind: ClassVar[str] = "np"
    name = "nP"
    default: ClassVar[int] = 1

    def per_example(self, outputs: Tensor, truth: Tensor) -> Tensor:
        """Return ``(n,)`` in 0..1."""
        return share(self.ranked(outputs, truth).sum(1), self.ideal(truth).sum(1))
