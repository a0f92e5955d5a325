"""What a measure compares the scores of examples with: their labels, or the grades of all classes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from promptfed.measures.base import Measure, truth_among
from promptfed.types import Split


def truth_of(
    measure: Measure, split: Split, width: int, among: Sequence[int] | None = None, rows: Tensor | None = None
) -> Tensor:
    """Return the truth that ``measure`` takes.

    Args:
        measure: It reads labels or grades.
        split: The examples.
        width: Columns of the scores, where ``among`` is None.
        among: The classes of the scores' columns; None: all classes, in order.
        rows: Which examples; None: all.

    Returns:
        ``(n,)`` int64, the column of each label; for a measure of grades ``(n, columns)`` float64, of examples without
        grades 1 for the label and 0 elsewhere.
    """
    labels = split.labels if rows is None else split.labels[rows]
    if measure.reads != "grades":
        return truth_among(labels, among)
    columns = torch.arange(width) if among is None else torch.tensor(among)
    if split.grades is None:
        return (labels[:, None] == columns).double()
    return (split.grades if rows is None else split.grades[rows])[:, columns]
