"""MAE: the mean absolute error of forecasts."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

from torch import Tensor

from promptfed.measures.base import MEASURES, Measure, Reads
from promptfed.scores import ABSOLUTE


@MEASURES.register("mae")
class MeanAbsoluteError(Measure):
    """Mean over windows, variables and steps of the absolute error, in deviations of a station's own past."""

    name = "MAE"
    better: ClassVar[Literal["higher", "lower"]] = "lower"
    unit: ClassVar[str] = ""
    bounds: ClassVar[tuple[float, float]] = (0.0, math.inf)
    reads: ClassVar[Reads] = "forecasts"

    def per_example(self, outputs: Tensor, truth: Tensor) -> Tensor:
        """Return ``(n,)``."""
        return -outputs[:, ABSOLUTE].double()
