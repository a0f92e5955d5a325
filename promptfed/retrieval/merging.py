"""One list from the lists of several engines, whose scores may not be comparable."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

RRF_CONSTANT = 60
"""Reciprocal rank fusion's constant (Cormack, Clarke and Buettcher 2009)."""


@dataclass(frozen=True)
class Hit:
    """One document that an engine found: its number there, and the engine's score."""

    engine: int
    document: int
    score: float


@dataclass(frozen=True)
class Answers:
    """The lists of the engines that were asked, best hits first, and what merging knows of the engines.

    Attributes:
        lists: Engine -> its hits.
        engines: The score of every engine, asked or not, by which they were selected.
        calibration: Engine -> (a, c): a hit of score s is relevant with the probability ``sigmoid(a s + c)``.
    """

    lists: Mapping[int, Sequence[Hit]]
    engines: np.ndarray
    calibration: Mapping[int, tuple[float, float]] = field(default_factory=dict)

    @property
    def order(self) -> list[int]:
        """The engines that were asked, the best first."""
        return sorted(self.lists, key=lambda engine: (-self.engines[engine], engine))


Merge = Callable[[Answers], list[Hit]]


def raw(answers: Answers) -> list[Hit]:
    """Sort by the engines' own scores."""
    return _sorted(answers, lambda hit, rank: hit.score)


def round_robin(answers: Answers) -> list[Hit]:
    """Take the first of every engine, the best engine's first, then the second of every engine, and so on."""
    return _sorted(answers, lambda hit, rank: -rank)


def rrf(answers: Answers) -> list[Hit]:
    """Sort by ``1 / (60 + rank)``: as round robin where no document is in two lists."""
    return _sorted(answers, lambda hit, rank: 1 / (RRF_CONSTANT + rank))


def minmax_cori(answers: Answers) -> list[Hit]:
    """Sort by ``(D + .4 D C) / 1.4``, CORI's merge: scores D of a list and C of the engines, both stretched to 0..1."""
    low, high = float(answers.engines.min()), float(answers.engines.max())
    weights = (answers.engines - low) / (high - low) if high > low else np.ones(len(answers.engines))
    ends = {
        engine: (min(hit.score for hit in hits), max(hit.score for hit in hits))
        for engine, hits in answers.lists.items()
        if hits
    }

    def score(hit: Hit, rank: int) -> float:
        least, most = ends[hit.engine]
        own = (hit.score - least) / (most - least) if most > least else 1.0
        return float((own + 0.4 * own * weights[hit.engine]) / 1.4)

    return _sorted(answers, score)


def calibrated(answers: Answers) -> list[Hit]:
    """Sort by the probability of relevance that each engine's own calibration says; without one, 0."""

    def score(hit: Hit, rank: int) -> float:
        slope, shift = answers.calibration.get(hit.engine, (0.0, -math.inf))
        return slope * hit.score + shift

    return _sorted(answers, score)


MERGES: Mapping[str, Merge] = {
    "raw": raw,
    "round robin": round_robin,
    "rrf": rrf,
    "minmax-CORI": minmax_cori,
    "calibrated": calibrated,
}


def _sorted(answers: Answers, score: Callable[[Hit, int], float]) -> list[Hit]:
    """Return all hits by ``score(hit, rank in its list)``, greatest first; of equal ones the better engine's first."""
    places = {engine: place for place, engine in enumerate(answers.order)}
    rows = [
        (-score(hit, rank), places[e], rank, hit)
        for e, hits in answers.lists.items()
        for rank, hit in enumerate(hits, 1)
    ]
    return [hit for *_, hit in sorted(rows, key=lambda row: row[:3])]
