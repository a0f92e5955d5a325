"""Spread of QoE: how unlike the cells are in what they get."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from torch import Tensor

from promptfed.measures.base import MEASURES, Measure, Reads, Total
from promptfed.scores import OF_CELL


@MEASURES.register("qoe_sd")
class SpreadOfQoe(Measure):
    """Standard deviation over cells of their mean reward, each weighed by its episodes."""

    name = "sd of QoE"
    better: ClassVar[Literal["higher", "lower"]] = "lower"
    unit: ClassVar[str] = ""
    bounds: ClassVar[tuple[float, float]] = (0.0, math.inf)
    reads: ClassVar[Reads] = "rewards"

    def width(self, classes: int) -> int:
        return 2

    def per_example(self, outputs: Tensor, truth: Tensor) -> Tensor:
        """Return ``(n, 2)``: the mean of the episode's cell less 1, and its square."""
        of_cell = outputs[:, OF_CELL].double()
        return torch.stack([of_cell, of_cell**2], 1)

    def combine(self, total: Total) -> float:
        """Return the root of the variance."""
        mean, square = (some / total.examples for some in total.sums)
        return math.sqrt(max(0.0, square - mean**2))
