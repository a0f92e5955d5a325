"""Relative MAE: the mean absolute error of forecasts beside that of the last value."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

from torch import Tensor

from promptfed.measures.base import MEASURES, Measure, Reads, Total
from promptfed.scores import ABSOLUTE, OF_PERSISTENCE


@MEASURES.register("relative_mae")
class RelativeMae(Measure):
    """MAE divided by that of persistence, which repeats the last value: below 1, a forecast is worth something."""

    name = "MAE / persistence"
    better: ClassVar[Literal["higher", "lower"]] = "lower"
    unit: ClassVar[str] = ""
    bounds: ClassVar[tuple[float, float]] = (0.0, math.inf)
    reads: ClassVar[Reads] = "forecasts"

    def width(self, classes: int) -> int:
        return 2

    def per_example(self, outputs: Tensor, truth: Tensor) -> Tensor:
        """Return ``(n, 2)``: the absolute errors of the forecast and of persistence."""
        return -outputs[:, [ABSOLUTE, OF_PERSISTENCE]].double()

    def combine(self, total: Total) -> float:
        """Return the quotient; of a series that never changes it is 1."""
        own, persistence = total.sums
        return own / persistence if persistence > 0 else 1.0
