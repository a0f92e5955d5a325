"""The measure that choices on validation data go by, read in its own direction."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, harmonic_mean

from promptfed.config import ACCURACY
from promptfed.errors import ConfigError
from promptfed.measures.base import Measure, build_measure


@dataclass(frozen=True)
class Selection:
    """Choices by ``measure``, which is option ``selection`` of a run: what is best is what its ``better`` says."""

    measure: Measure

    @classmethod
    def of(cls, name: str) -> Selection:
        """Return the selection by the measure ``name``.

        Raises:
            ConfigError: There is none, or it is no mean over examples: clients' choices are added up.
        """
        measure = build_measure(name)
        if measure.width(2) != 1:
            raise ConfigError(
                f"selection '{name}' is no mean over examples, so what clients choose by cannot be added up: use "
                f"{ACCURACY}, nll or top_k:3"
            )
        return cls(measure)

    @property
    def is_accuracy(self) -> bool:
        """Whether it is the default."""
        return self.measure.name == ACCURACY

    def merit(self, figure: float) -> float:
        """Return ``figure``, turned round where lower is better: of merits the greatest is the best."""
        return figure if self.measure.better == "higher" else -figure

    def best(self, figures: Sequence[float | None]) -> int:
        """Return the position of the best figure, the first of equals; None is worse than any."""
        merits = [-math.inf if figure is None else self.merit(figure) for figure in figures]
        return merits.index(max(merits))

    def together(self, figures: Sequence[float]) -> float:
        """Return one figure for several parts: the harmonic mean of shares, the mean of all others."""
        is_share = self.measure.unit == "%" and self.measure.better == "higher"
        return harmonic_mean(figures) if is_share else fmean(figures)

    def words(self, figure: float, count: int, what: str) -> str:
        """Return ``figure`` over ``count`` examples as a sentence has it."""
        if self.is_accuracy:
            return f"{100 * figure:.1f} % of {count} {what} right"
        shown = f"{100 * figure:.1f} %" if self.measure.unit == "%" else f"{figure:.3f} {self.measure.unit}".strip()
        return f"{self.measure.name} {shown} on {count} {what}"
