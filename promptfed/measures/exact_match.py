"""Exact match: the share of answers in free text that are right."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor

from promptfed.measures.base import MEASURES, Measure, Reads
from promptfed.scores import RIGHT


@MEASURES.register("exact_match")
class ExactMatch(Measure):
    """Share of answers that are the right one: word for word, or their final answer where the data mark one by ####.

    It is what ``accuracy`` is for such a task.
    """

    name = "exact match"
    better: ClassVar[Literal["higher", "lower"]] = "higher"
    reads: ClassVar[Reads] = "answers"

    def per_example(self, outputs: Tensor, truth: Tensor) -> Tensor:
        """Return ``(n,)``, 1 for a right answer."""
        return outputs[:, RIGHT].double()
