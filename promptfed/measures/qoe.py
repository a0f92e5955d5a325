"""QoE: the mean quality of experience that allocations bring."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor

from promptfed.measures.base import MEASURES, Measure, Reads
from promptfed.scores import REWARD


@MEASURES.register("qoe")
class QualityOfExperience(Measure):
    """Mean reward of a slot, at most 1 (promptfed/allocation/cell.py)."""

    name = "QoE"
    better: ClassVar[Literal["higher", "lower"]] = "higher"
    unit: ClassVar[str] = ""
    bounds: ClassVar[tuple[float, float]] = (-1.2, 1.0)
    reads: ClassVar[Reads] = "rewards"

    def per_example(self, outputs: Tensor, truth: Tensor) -> Tensor:
        """Return ``(n,)``."""
        return 1 + outputs[:, REWARD].double()
