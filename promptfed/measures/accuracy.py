"""Accuracy: the share of examples whose best class is the right one."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor

from promptfed.config import ACCURACY
from promptfed.measures.base import MEASURES, Measure, Reads
from promptfed.scores import NO_CLASS, predicted


@MEASURES.register(ACCURACY)
class Accuracy(Measure):
    """Share of examples whose best class is the right one; every run has it."""

    name = "accuracy"
    better: ClassVar[Literal["higher", "lower"]] = "higher"
    reads: ClassVar[Reads] = "both"

    def per_example(self, outputs: Tensor, truth: Tensor) -> Tensor:
        """Return ``(n,)``, 1 for a right answer."""
        best = predicted(outputs)
        return ((best == truth) & (best != NO_CLASS)).double()
