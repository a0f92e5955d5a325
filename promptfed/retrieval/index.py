"""Exact search in one client's documents: by words (BM25) or by vectors (cosine). Nothing of an index leaves it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

_WORD = re.compile(r"\w+")


def words_of(text: str) -> list[str]:
    """Return the words of a text in lower case."""
    return _WORD.findall(text.lower())


@dataclass(frozen=True)
class TermStatistics:
    """What an engine that takes part in CORI makes public: in how many documents each word is, and words in all."""

    document_frequency: Mapping[str, int]
    words: int


class Bm25:
    """BM25 (Robertson and Walker 1994): ``idf tf (k1 + 1) / (tf + k1 (1 - b + b length / mean length))`` a word.

    ``idf = ln(1 + (n - df + .5) / (df + .5))`` counts this client's ``n`` documents alone: scores of two clients cannot
    be compared.

    Args:
        documents: The texts.
        k1: How soon more of the same word stops to count.
        b: How much long documents are marked down, 0 to 1.
    """

    def __init__(self, documents: Sequence[str], k1: float = 1.2, b: float = 0.75) -> None:
        counts = [Counter(words_of(text)) for text in documents]
        lengths = np.array([sum(count.values()) for count in counts], dtype=float)
        mean = max(1.0, float(lengths.mean())) if len(counts) else 1.0
        self._norms = k1 * (1 - b + b * lengths / mean)
        places: dict[str, list[tuple[int, int]]] = {}
        for place, count in enumerate(counts):
            for word, number in count.items():
                places.setdefault(word, []).append((place, number))
        self._k1 = k1
        self._postings = {word: np.array(held).T for word, held in places.items()}
        frequency = {word: len(held) for word, held in places.items()}
        self.statistics = TermStatistics(frequency, int(lengths.sum()))

    def scores(self, request: str) -> np.ndarray:
        """Return the score of each document ``(documents,)``; a word that occurs twice counts twice."""
        total, n = np.zeros(len(self._norms)), len(self._norms)
        for word in words_of(request):
            if word in self._postings:
                rows, frequency = self._postings[word]
                idf = np.log1p((n - len(rows) + 0.5) / (len(rows) + 0.5))
                total[rows] += idf * frequency * (self._k1 + 1) / (frequency + self._norms[rows])
        return total


class Cosine:
    """Cosines of vectors from an encoder that all clients share, so that scores of two clients can be compared.

    Args:
        vectors: One row for each document.
    """

    def __init__(self, vectors: np.ndarray) -> None:
        self._vectors = unit_rows(vectors)
        self.centroid: np.ndarray = self._vectors.mean(0)
        """The mean of the documents' unit vectors, which an owner may make public."""

    def scores(self, request: np.ndarray) -> np.ndarray:
        """Return the cosine of each document with a request's vector."""
        cosines: np.ndarray = self._vectors @ unit_rows(request[None])[0]
        return cosines


def unit_rows(vectors: np.ndarray) -> np.ndarray:
    """Return rows of length 1; a row of zeros stays as it is."""
    rows = np.asarray(vectors, dtype=np.float64)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.where(lengths > 0, lengths, 1.0))


def best(scores: np.ndarray, count: int) -> list[int]:
    """Return the places of the ``count`` greatest scores, greatest first; of equal ones the first comes first."""
    return [int(place) for place in np.argsort(-scores, kind="stable")[:count]]
