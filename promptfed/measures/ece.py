"""Expected calibration error: how far the model's confidence is from its accuracy."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from promptfed.measures.base import MEASURES, Measure, Total, log_probabilities

BINS = 15


@MEASURES.register("ece")
class CalibrationError(Measure):
    """Mean over examples of the gap between confidence and accuracy in 15 bins of equal width (Guo et al. 2017)."""

    name = "ECE"
    better: ClassVar[Literal["higher", "lower"]] = "lower"

    def width(self, classes: int) -> int:
        return BINS

    def per_example(self, outputs: Tensor, truth: Tensor) -> Tensor:
        """Return ``(n, bins)``: confidence minus 1 if right, in the bin of the confidence, else 0."""
        confidence, best = log_probabilities(outputs).exp().max(1)
        gap = confidence - (best == truth).double()
        column = (confidence * BINS).ceil().long().clamp(1, BINS) - 1  # bin b holds confidences in (b, b + 1] / bins
        return torch.zeros(len(truth), BINS, dtype=torch.float64).scatter_(1, column[:, None], gap[:, None])

    def combine(self, total: Total) -> float:
        """Return the sum of the bins' absolute sums, divided by the number of examples."""
        return sum(map(abs, total.sums)) / total.examples
