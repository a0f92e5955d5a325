"""Which engines a request is sent to: scores of engines, from what their owners make public."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from promptfed.retrieval.index import TermStatistics, unit_rows

DEFAULT_BELIEF = 0.4
"""CORI's belief in an engine for a word of which nothing is known."""


def cori(request: Sequence[str], engines: Sequence[TermStatistics]) -> np.ndarray:
    """Return CORI's belief in each engine (Callan, Lu and Croft 1995), from term statistics.

    For each word, ``.4 + .6 T I`` with ``T = df / (df + 50 + 150 cw / mean cw)`` and
    ``I = ln((C + .5) / cf) / ln(C + 1)``: df documents of the engine have the word, cf of the C engines do, and cw are
    the engine's words. The belief is the mean over the words that some engine has.

    Args:
        request: Its words.
        engines: What the engines make public.
    """
    count = len(engines)
    sizes = np.array([engine.words for engine in engines], dtype=float)
    mean = max(1.0, float(sizes.mean()))
    beliefs, known = np.zeros(count), 0
    for word in request:
        held = np.array([engine.document_frequency.get(word, 0) for engine in engines], dtype=float)
        holders = int((held > 0).sum())
        if holders:
            known += 1
            rarity = math.log((count + 0.5) / holders) / math.log(count + 1.0)
            beliefs += DEFAULT_BELIEF + (1 - DEFAULT_BELIEF) * held / (held + 50 + 150 * sizes / mean) * rarity
    return beliefs / known if known else np.full(count, DEFAULT_BELIEF)


def centroid(request: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """Return the cosine of a request's vector with each engine's mean document vector."""
    cosines: np.ndarray = unit_rows(centroids) @ unit_rows(request[None])[0]
    return cosines


def descriptor(request: np.ndarray, descriptors: np.ndarray) -> np.ndarray:
    """Return the grade ``w . f + b`` that each engine's descriptor ``(width + 1,)`` predicts for a request's vector."""
    grades: np.ndarray = descriptors[:, :-1] @ request + descriptors[:, -1]
    return grades
