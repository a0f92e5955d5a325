"""A measure's figures on local, base and new classes, from totals: computed here, or sent by the sites."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, pstdev

from promptfed.measures.base import Measure, Total

Totals = Mapping[str, Total]
"""Measure -> its total over some examples."""
MeasureFigures = dict[str, float | None]
"""local, local_std, local_all, local_all_std, base, new: as the figures of accuracy, None where there are none."""


@dataclass(frozen=True)
class PartTotals:
    """Totals of all measures on the test examples of each part.

    Attributes:
        local: Client -> its own test examples among its own classes; clients of one class have none.
        local_all: Client -> its own test examples among all base classes.
        base: For each prompt that is deployed, the base test examples.
        new: For each prompt that is deployed, the examples of new classes.
    """

    local: Mapping[int, Totals] = field(default_factory=dict)
    local_all: Mapping[int, Totals] = field(default_factory=dict)
    base: Sequence[Totals] = ()
    new: Sequence[Totals] = ()

    def figures(self, measures: Mapping[str, Measure]) -> dict[str, MeasureFigures]:
        """Return measure -> its figures, each the mean over clients or prompts."""
        return {name: self._of(name, measure) for name, measure in measures.items()}

    def _of(self, name: str, measure: Measure) -> MeasureFigures:
        def each(totals: Iterable[Totals]) -> list[float]:
            return [measure.combine(total[name]) for total in totals if name in total]

        local, everywhere = each(self.local.values()), each(self.local_all.values())
        return {
            "local": _mean(local),
            "local_std": pstdev(local) if local else None,
            "local_all": _mean(everywhere),
            "local_all_std": pstdev(everywhere) if everywhere else None,
            "base": _mean(each(self.base)),
            "new": _mean(each(self.new)),
        }


def described(measures: Mapping[str, Measure]) -> dict[str, dict[str, str]]:
    """Return what a reader of the figures must know, who may not have the measures: name, better, unit."""
    return {
        name: {"name": measure.name, "better": measure.better, "unit": measure.unit}
        for name, measure in measures.items()
    }


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None
