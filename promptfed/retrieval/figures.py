"""Figures of rankings in numpy, where no scores of a model are at hand, and rankings that need no model."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from promptfed.retrieval.collection import Request
from promptfed.retrieval.index import words_of
from promptfed.seeding import numpy_stream

SHUFFLES = 20


def ndcg(gains: Sequence[float], best: Sequence[float], k: int) -> float:
    """Return nDCG@k with linear gain: of the ``gains`` in the order of a ranking, and all there are in any order."""
    ideal = _dcg(sorted(best, reverse=True)[:k])
    return _dcg(list(gains)[:k]) / ideal if ideal > 0 else 0.0


def _dcg(gains: Sequence[float]) -> float:
    return sum(gain / math.log2(rank + 1) for rank, gain in enumerate(gains, 1))


def engine_figures(scores: np.ndarray, requests: Sequence[Request]) -> tuple[float, float]:
    """Return (nDCG@10, nP@1) of engines by ``scores`` ``(requests, engines)``; of equal ones the first comes first."""
    values = []
    for row, request in zip(scores, requests, strict=True):
        gains = np.array(request.grades)[np.argsort(-row, kind="stable")]
        values.append((ndcg(gains.tolist(), request.grades, 10), float(gains[0] / max(request.grades))))
    means = np.mean(values, 0)
    return float(means[0]), float(means[1])


def description_words(requests: Sequence[Request], descriptions: Sequence[str]) -> np.ndarray:
    """Return TF-IDF cosines ``(requests, engines)`` of requests and descriptions; rarity is counted in descriptions."""
    counts = [Counter(words_of(text)) for text in descriptions]
    held = Counter(word for count in counts for word in count)
    idf = {word: math.log((1 + len(counts)) / (1 + number)) + 1 for word, number in held.items()}
    rare = math.log(1 + len(counts)) + 1  # a word that no description has

    def weights(count: Counter[str]) -> dict[str, float]:
        values = {word: number * idf.get(word, rare) for word, number in count.items()}
        length = math.sqrt(sum(value * value for value in values.values())) or 1.0
        return {word: value / length for word, value in values.items()}

    engines = [weights(count) for count in counts]
    rows = [weights(Counter(words_of(request.text))) for request in requests]
    return np.array([[sum(v * e.get(w, 0.0) for w, v in row.items()) for e in engines] for row in rows])


def trivial_note(train: Sequence[Request], test: Sequence[Request], descriptions: Sequence[str], seed: int) -> str:
    """Return a line with the figures of rankings that need no model, on the test requests."""
    engines = len(descriptions)
    draw = numpy_stream(seed, "random engines")
    shuffled = [engine_figures(draw.random((len(test), engines)), test) for _ in range(SHUFFLES)]
    usefulness = np.mean([request.grades for request in train], 0)
    popular = np.tile(usefulness, (len(test), 1))
    home = popular.copy()
    home[np.arange(len(test)), [request.origin for request in test]] = usefulness.max() + 1
    rows = {
        "engines in random order": tuple(np.mean(shuffled, 0)),
        "TF-IDF of request and description": engine_figures(description_words(test, descriptions), test),
        "the most useful engines for every request": engine_figures(popular, test),
        "the asker's own engine first, then these": engine_figures(home, test),
    }
    listed = "; ".join(f"{name} {100 * gain:.1f} and {100 * first:.1f}" for name, (gain, first) in rows.items())
    return f"without a model, nDCG@10 and nP@1 in % on the {len(test)} test requests: {listed}"
