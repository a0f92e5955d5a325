"""Late share: how many users get their tiles after the deadline."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor

from promptfed.measures.base import MEASURES, Measure, Reads
from promptfed.scores import LATE


@MEASURES.register("late")
class LateShare(Measure):
    """Share of users and slots whose tiles come after the deadline."""

    name = "late"
    better: ClassVar[Literal["higher", "lower"]] = "lower"
    unit: ClassVar[str] = "%"
    bounds: ClassVar[tuple[float, float]] = (0.0, 1.0)
    reads: ClassVar[Reads] = "rewards"

    def per_example(self, outputs: Tensor, truth: Tensor) -> Tensor:
        """Return ``(n,)``."""
        return -outputs[:, LATE].double()
