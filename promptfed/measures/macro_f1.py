"""Macro-F1: the mean of the classes' F1 scores, in which a rare class counts as much as a frequent one."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from promptfed.measures.base import MEASURES, Measure, Total
from promptfed.scores import predicted


@MEASURES.register("macro_f1")
class MacroF1(Measure):
    """Mean over classes of F1, the harmonic mean of precision and recall.

    A class that is neither the truth nor the answer of any example is left out. An example without an answer lowers
    the recall of its class and no precision.
    """

    name = "macro-F1"
    better: ClassVar[Literal["higher", "lower"]] = "higher"

    def width(self, classes: int) -> int:
        return 3 * classes

    def per_example(self, outputs: Tensor, truth: Tensor) -> Tensor:
        """Return ``(n, 3 * classes)``: which class is right, which is answered, and which is both."""
        classes = torch.arange(outputs.shape[1])
        is_truth, is_answer = truth[:, None] == classes, predicted(outputs)[:, None] == classes
        return torch.cat([is_truth, is_answer, is_truth & is_answer], 1).double()

    def combine(self, total: Total) -> float:
        """Return the mean of ``2 both / (right + answered)`` over the classes that occur."""
        truth, answers, hits = torch.tensor(total.sums, dtype=torch.float64).reshape(3, -1)
        present = truth + answers
        return float((2 * hits[present > 0] / present[present > 0]).mean())
