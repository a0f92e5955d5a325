"""Token F1: how many words an answer in free text shares with the right one."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor

from promptfed.measures.base import MEASURES, Measure, Reads
from promptfed.scores import TOKEN_F1


@MEASURES.register("token_f1")
class TokenF1(Measure):
    """Mean over answers of the F1 of their words (Rajpurkar et al. 2016): harmonic mean of precision and recall."""

    name = "token F1"
    better: ClassVar[Literal["higher", "lower"]] = "higher"
    reads: ClassVar[Reads] = "answers"

    def per_example(self, outputs: Tensor, truth: Tensor) -> Tensor:
        """Return ``(n,)`` in 0..1."""
        return outputs[:, TOKEN_F1].double()
