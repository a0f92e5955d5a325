"""Recall: how many of the classes that fit are among the k best."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from promptfed.measures.base import MEASURES
from promptfed.measures.ranking import RankingMeasure, share


@MEASURES.register("recall")
class Recall(RankingMeasure):
    """Share of the classes with a grade above 0 that are among the k best: recall:10.

    Where an example has one label, it is top-k accuracy.
    """

    kind: ClassVar[str] = "recall"
    name = "recall"

    def per_example(self, outputs: Tensor, truth: Tensor) -> Tensor:
        """Return ``(n,)`` in 0..1."""
        fits = (truth.nan_to_num(0.0) > 0).double()
        return share((self.ranked(outputs, truth) > 0).double().sum(1), fits.sum(1))
