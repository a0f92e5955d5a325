"""Negative log-likelihood of the right answers in free text, token by token."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

from torch import Tensor

from promptfed.measures.base import MEASURES, Measure, Reads
from promptfed.scores import LOG_LIKELIHOOD


@MEASURES.register("answer_nll")
class AnswerNll(Measure):
    """Mean over answers of the mean of -log of their tokens' probabilities; its exponential is a perplexity.

    The answer's end marker is one of its tokens, the question's tokens are none. Clients minimise it.
    """

    name = "NLL of a token"
    better: ClassVar[Literal["higher", "lower"]] = "lower"
    unit: ClassVar[str] = "nats"
    bounds: ClassVar[tuple[float, float]] = (0.0, math.inf)
    reads: ClassVar[Reads] = "answers"

    def per_example(self, outputs: Tensor, truth: Tensor) -> Tensor:
        """Return ``(n,)``."""
        return -outputs[:, LOG_LIKELIHOOD].double()
