"""nDCG: how near a ranking is to the best one there could be."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from promptfed.measures.base import MEASURES
from promptfed.measures.ranking import RankingMeasure, share


@MEASURES.register("ndcg")
class NDCG(RankingMeasure):
    """Normalised discounted cumulative gain of the k best classes: ndcg:10 (Jarvelin and Kekalainen 2002).

    The gain of a class is its grade, as trec_eval has it, not ``2 ** grade - 1``; the one at rank r is divided by
    ``log2(r + 1)``. The sum is divided by that of the best order.
    """

    kind: ClassVar[str] = "ndcg"
    name = "nDCG"

    def per_example(self, outputs: Tensor, truth: Tensor) -> Tensor:
        """Return ``(n,)`` in 0..1."""
        gains, best = self.ranked(outputs, truth), self.ideal(truth)
        discounts = 1 / torch.arange(2, 2 + gains.shape[1], dtype=torch.float64).log2()
        return share((gains * discounts).sum(1), (best * discounts).sum(1))
