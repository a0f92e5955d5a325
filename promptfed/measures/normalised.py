"""Normalised score: where a mean reward stands between random actions and an expert."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

from torch import Tensor

from promptfed.measures.base import MEASURES, Measure, Reads, Total
from promptfed.scores import AT_RANDOM, OF_EXPERT, REWARD


@MEASURES.register("normalised")
class NormalisedScore(Measure):
    """100 (R - R_random) / (R_expert - R_random), with mean rewards over all episodes; 100 is as good as the expert."""

    name = "normalised"
    better: ClassVar[Literal["higher", "lower"]] = "higher"
    unit: ClassVar[str] = ""
    bounds: ClassVar[tuple[float, float]] = (-math.inf, math.inf)
    reads: ClassVar[Reads] = "rewards"

    def width(self, classes: int) -> int:
        return 3

    def per_example(self, outputs: Tensor, truth: Tensor) -> Tensor:
        """Return ``(n, 3)``: minus what is missing to a reward of 1, of the method, at random and of the expert."""
        return outputs[:, [REWARD, AT_RANDOM, OF_EXPERT]].double()

    def combine(self, total: Total) -> float:
        """Return the score; where the expert is no better than chance it is 0."""
        own, random, expert = total.sums
        return 100 * (own - random) / (expert - random) if expert > random else 0.0
