"""Measures of how good scores are, each a sum over examples, so that sites can add theirs without showing examples.

A measure turns the scores of each example into a few numbers (``per_example``), adds these up, and turns the sums into
one figure (``combine``). A mean, such as accuracy, sums one number. Macro-F1, which is no mean over examples, sums
what a confusion matrix has in its margins and on its diagonal, class by class.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from promptfed.errors import ConfigError
from promptfed.printable import printable
from promptfed.registry import Registry
from promptfed.scores import as_if_uniform

Reads = Literal["classes", "answers", "forecasts", "rewards", "both", "grades"]
"""What a measure is made of."""
TASKS_READ: Mapping[str, str] = {
    "classes": "sorts into classes",
    "answers": "has answers in free text",
    "forecasts": "forecasts numbers",
    "rewards": "earns rewards",
}
"""What a task does whose measures read this."""
ROWS = 1024
"""Examples whose numbers are held at once."""


@dataclass(frozen=True)
class Total:
    """``sums`` of the numbers of ``examples`` examples; totals of disjoint examples can be added."""

    sums: tuple[float, ...]
    examples: int

    def __add__(self, other: Total) -> Total:
        sums = tuple(left + right for left, right in zip(self.sums, other.sums, strict=True))
        return Total(sums, self.examples + other.examples)


class Measure(ABC):
    """One figure of merit.

    Args:
        argument: What stands behind the colon of its name: of ``top_k:3`` it is ``3``.

    Attributes:
        name: As tables show it.
        better: Whether "higher" or "lower" figures are better.
        unit: "%" for shares, which are shown times 100; else the name of the unit, or nothing.
        bounds: The least and the greatest figure that can be; a site's figure outside is refused.
        reads: What it is made of: scores of "classes", figures of "answers" in free text, errors of "forecasts",
            "rewards" of episodes, or any of them ("both"); of "grades", scores of classes that may all
            fit, more or less.
    """

    name: str
    better: ClassVar[Literal["higher", "lower"]]
    unit: ClassVar[str] = "%"
    bounds: ClassVar[tuple[float, float]] = (0.0, 1.0)
    reads: ClassVar[Reads] = "classes"

    def __repr__(self) -> str:
        return f"<measure {self.name}: {self.better} is better>"

    def __init__(self, argument: str = "") -> None:
        if argument:
            raise ConfigError(f"measure '{self.name}' takes nothing after a colon: leave out '{printable(argument)}'")

    @abstractmethod
    def per_example(self, outputs: Tensor, truth: Tensor) -> Tensor:
        """Turn scores into the numbers that are summed.

        Args:
            outputs: Scores ``(n, classes)``, higher is better; their softmax are the probabilities. NaN in a row: the
                model gave no answer (``promptfed.scores``).
            truth: ``(n,)`` int64, the column of the right class; -1 where it is none of them. For a measure of grades
                ``(n, classes)``, at least 0: how well each class fits, 1 and 0 where examples have one label.

        Returns:
            ``(n,)``, or ``(n, width(classes))`` where one number is not enough.
        """

    def width(self, classes: int) -> int:
        """Return how many numbers each example has among so many classes."""
        return 1

    def combine(self, total: Total) -> float:
        """Turn sums into the figure; by default the mean of the first number."""
        return total.sums[0] / total.examples

    def total(self, outputs: Tensor, truth: Tensor) -> Total:
        """Return the sums over the rows of ``outputs`` ``(n, classes)``, some at a time, in float64."""
        sums = torch.zeros(self.width(outputs.shape[1]), dtype=torch.float64)
        for rows, labels in zip(outputs.cpu().split(ROWS), truth.split(ROWS), strict=True):
            sums += self.per_example(rows, labels).double().reshape(len(labels), -1).sum(0)
        return Total(tuple(sums.tolist()), len(truth))

    def figure(self, outputs: Tensor, truth: Tensor) -> float:
        """Return the figure of one set of examples, at least one."""
        return self.combine(self.total(outputs, truth))

    def allows(self, total: Total, classes: int, *, local: bool = False) -> bool:
        """Return whether ``total``, which may be a stranger's, is one that examples among ``classes`` can have.

        ``local``: among some of the classes only, at least two.
        """
        widths = range(2, classes + 1) if local else (classes,)
        if total.examples < 1 or not all(map(math.isfinite, total.sums)):
            return False
        if len(total.sums) not in {self.width(count) for count in widths}:
            return False
        low, high = self.bounds
        try:
            return low - 1e-9 <= self.combine(total) <= high + 1e-9
        except Exception:  # a plug-in's measure may raise anything for forged numbers
            return False


MEASURES: Registry[type[Measure]] = Registry(
    "measure", "promptfed.measures", group="promptfed.measures", required=("name", "better", "unit", "per_example")
)


def build_measure(name: str) -> Measure:
    """Make the measure ``name``, such as ``"macro_f1"`` or ``"top_k:3"``. Raises ConfigError for one there is not."""
    kind, _, argument = name.partition(":")
    return MEASURES[kind](argument)


def build_measures(names: Iterable[str]) -> dict[str, Measure]:
    """Make the measures called ``names``. Raises ConfigError for a name or an argument that there is not."""
    return {name: build_measure(name) for name in names}


def check_reads(measures: Iterable[str], reads: Reads, task: str) -> None:
    """Raise ConfigError for the first of ``measures`` that is not made of what ``task`` has."""
    for name in measures:
        kind = MEASURES[name.partition(":")[0]]
        fits = (reads, "both", *(("grades",) if reads == "classes" else ()))
        if kind.reads not in fits:
            fitting = [other for other in MEASURES if MEASURES[other].reads in fits]
            raise ConfigError(
                f"measure '{printable(name, 40)}' does not go with task '{task}', which {TASKS_READ[reads]}: use one "
                f"of {', '.join(fitting)}"
            )


def log_probabilities(outputs: Tensor) -> Tensor:
    """Return the log-softmax of scores ``(n, classes)`` in float64; uniform where there was no answer."""
    return as_if_uniform(outputs.double()).log_softmax(-1)


def truth_among(labels: Tensor, candidates: Sequence[int] | None) -> Tensor:
    """Return the position of each label ``(n,)`` among ``candidates`` (None: all classes), -1 if it is not there."""
    if candidates is None:
        return labels
    column = {label: position for position, label in enumerate(candidates)}
    return torch.tensor([column.get(label, -1) for label in labels.tolist()], dtype=torch.int64)
