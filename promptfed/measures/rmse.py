"""RMSE: the root of the mean squared error of forecasts."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

from torch import Tensor

from promptfed.measures.base import MEASURES, Measure, Reads, Total
from promptfed.scores import SQUARED


@MEASURES.register("rmse")
class RootMeanSquaredError(Measure):
    """Root of the mean over windows, variables and steps of the squared error; large errors count more than in MAE."""

    name = "RMSE"
    better: ClassVar[Literal["higher", "lower"]] = "lower"
    unit: ClassVar[str] = ""
    bounds: ClassVar[tuple[float, float]] = (0.0, math.inf)
    reads: ClassVar[Reads] = "forecasts"

    def per_example(self, outputs: Tensor, truth: Tensor) -> Tensor:
        """Return ``(n,)``, the mean square of each window."""
        return -outputs[:, SQUARED].double()

    def combine(self, total: Total) -> float:
        """Return the root of the mean square."""
        return math.sqrt(max(0.0, total.sums[0] / total.examples))
