"""Negative log-likelihood: how surprised the model is at the right classes."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

from torch import Tensor

from promptfed.measures.base import MEASURES, Measure, log_probabilities

LEAST = 1e-12
"""Probability below which none counts, so that one hopeless example does not make the mean infinite."""


@MEASURES.register("nll")
class NegativeLogLikelihood(Measure):
    """Mean of -log of the right class's probability, the softmax of the scores; without an answer all are equal."""

    name = "NLL"
    better: ClassVar[Literal["higher", "lower"]] = "lower"
    unit: ClassVar[str] = "nats"
    bounds: ClassVar[tuple[float, float]] = (0.0, -math.log(LEAST))

    def per_example(self, outputs: Tensor, truth: Tensor) -> Tensor:
        """Return ``(n,)``, at most ``-log(LEAST)``, which an example gets whose class is none of those there are."""
        right = log_probabilities(outputs).gather(1, truth.clamp(min=0)[:, None])[:, 0]
        return -right.where(truth >= 0, math.log(LEAST)).clamp(min=math.log(LEAST))
