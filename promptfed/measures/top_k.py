"""Top-k accuracy: the share of examples whose right class is among the k best."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from promptfed.errors import ConfigError
from promptfed.measures.base import MEASURES, Measure
from promptfed.printable import printable
from promptfed.scores import is_answered


@MEASURES.register("top_k")
class TopK(Measure):
    """Share of examples whose right class is among the k best: top_k:3, by default 5.

    Of classes with equal scores the first ranks higher. Among k classes or fewer it is 1.
    """

    name = "top-k"
    better: ClassVar[Literal["higher", "lower"]] = "higher"

    def __init__(self, argument: str = "") -> None:
        if not (argument or "5").isdecimal() or not 1 <= len(argument or "5") <= 6 or int(argument or "5") < 1:
            raise ConfigError(f"measure 'top_k:{printable(argument, 40)}' needs a whole number from 1, such as top_k:3")
        self.k = int(argument or "5")
        self.name = f"top-{self.k}"

    def per_example(self, outputs: Tensor, truth: Tensor) -> Tensor:
        """Return ``(n,)``, 1 where fewer than k classes rank above the right one."""
        right = outputs.gather(1, truth.clamp(min=0)[:, None])
        is_before = torch.arange(outputs.shape[1]) < truth[:, None]
        above = ((outputs > right) | ((outputs == right) & is_before)).sum(1)
        return ((above < self.k) & (truth >= 0) & is_answered(outputs)).double()
