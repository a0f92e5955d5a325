"""Mean average precision: of images with several labels, how well each class ranks them."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from promptfed.measures.base import MEASURES, Measure, Reads, Total


@MEASURES.register("map")
class MeanAveragePrecision(Measure):
    """Mean over classes of the average precision of the ranking of all examples by that class's score.

    The average precision of a class is the mean, over the examples that show it, of the share of such examples among
    all that score at least as high: that of scikit-learn, with equal scores at one place. A class that no example shows
    is left out. No threshold is in it.

    It is made of two numbers for each class: its average precision times the examples that show it, and these. So a
    figure of one set of examples is exact. Where sites add theirs, no score travels, and a class has the mean of the
    sites' average precisions, weighted by the examples that show it: examples of different sites are not ranked
    against each other.
    """

    name = "mAP"
    better: ClassVar[Literal["higher", "lower"]] = "higher"
    reads: ClassVar[Reads] = "grades"

    def width(self, classes: int) -> int:
        return 2 * classes

    def per_example(self, outputs: Tensor, truth: Tensor) -> Tensor:
        """Return ``(n, 2 * classes)``: for each class that an example shows the precision at its place, and 1."""
        scores = outputs.double().nan_to_num(-torch.inf)
        is_shown = truth.nan_to_num(0.0) > 0
        precision = torch.zeros(scores.shape, dtype=torch.float64)
        for column in range(scores.shape[1]):
            precision[:, column] = precision_at(scores[:, column], is_shown[:, column])
        return torch.cat([precision, is_shown.double()], 1)

    def total(self, outputs: Tensor, truth: Tensor) -> Total:
        """Return the sums over all rows, which are ranked together."""
        return Total(tuple(self.per_example(outputs.cpu(), truth).sum(0).tolist()), len(truth))

    def combine(self, total: Total) -> float:
        """Return the mean of ``by_class`` over the classes that occur; 0 without any."""
        present = [value for value in self.by_class(total) if value is not None]
        return sum(present) / len(present) if present else 0.0

    def by_class(self, total: Total) -> list[float | None]:
        """Return the average precision of each class, None for one that no example shows."""
        half = len(total.sums) // 2
        return [
            precision / shown if shown else None
            for precision, shown in zip(total.sums[:half], total.sums[half:], strict=True)
        ]


def precision_at(scores: Tensor, is_shown: Tensor) -> Tensor:
    """Return, for each example that shows a class, the share of such among those that score at least as high.

    Args:
        scores: Those of the class ``(n,)``, float64.
        is_shown: Whether each example shows it ``(n,)``.

    Returns:
        ``(n,)`` float64, 0 for examples that do not show it.
    """
    order = scores.argsort(descending=True)
    ranked = scores[order]
    last = torch.searchsorted(-ranked, -ranked, right=True) - 1  # of equal scores the last place
    hits = is_shown[order].double().cumsum(0)
    precision = torch.empty_like(hits)
    precision[order] = hits[last] / (last + 1)
    return precision.where(is_shown, 0.0)
