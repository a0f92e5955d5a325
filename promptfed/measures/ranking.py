"""What measures of rankings share: a cut-off, the grades in the order of the scores, and which examples count."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from promptfed.errors import ConfigError
from promptfed.measures.base import Measure, Reads, Total
from promptfed.printable import printable
from promptfed.scores import is_answered


class RankingMeasure(Measure):
    """A mean over the examples that some class fits; if none fits any, the figure is 0.

    Args:
        argument: The cut-off k: only the k best classes of an example are looked at.
    """

    kind: ClassVar[str]
    """Its name in options, without the cut-off; ``name`` is what tables show."""
    default: ClassVar[int] = 10
    better: ClassVar[Literal["higher", "lower"]] = "higher"
    reads: ClassVar[Reads] = "grades"

    def __init__(self, argument: str = "") -> None:
        text = argument or str(self.default)
        if not (text.isdecimal() and text.isascii() and len(text) <= 6 and int(text) >= 1):
            raise ConfigError(
                f"measure '{self.kind}:{printable(argument, 40)}' needs a whole number from 1, such as "
                f"{self.kind}:{self.default}"
            )
        self.k = int(text)
        self.name = f"{type(self).name}@{self.k}"

    def total(self, outputs: Tensor, truth: Tensor) -> Total:
        """As every measure's, where examples that no class fits count for nothing."""
        total = super().total(outputs, truth)
        counted = int((truth.nan_to_num(0.0) > 0).any(1).sum())
        return Total(total.sums, counted or len(truth))

    def ranked(self, outputs: Tensor, truth: Tensor) -> Tensor:
        """Return the grades ``(n, min(k, classes))`` of the best scores, best first.

        Of equal scores the first ranks higher; unknown grades are 0, and so are all of an example without an answer.
        """
        order = outputs.sort(dim=1, descending=True, stable=True).indices[:, : self.k]
        best = truth.double().nan_to_num(0.0).gather(1, order)
        return best.where(is_answered(outputs)[:, None], 0.0)

    def ideal(self, truth: Tensor) -> Tensor:
        """Return the greatest grades ``(n, min(k, classes))``, best first."""
        return truth.double().nan_to_num(0.0).sort(dim=1, descending=True).values[:, : self.k]


def share(part: Tensor, whole: Tensor) -> Tensor:
    """Return ``part / whole`` ``(n,)``, 0 where there is nothing to have a share of."""
    return torch.where(whole > 0, part / whole.where(whole > 0, 1.0), 0.0)
