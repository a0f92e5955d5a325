"""FedDTPT's server: it clusters the clients' words by meaning and orders the clusters that most agree on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from promptfed.aggregators.base import Aggregator, AggregatorConfig
from promptfed.blackbox.search.base import Matrix, Vector
from promptfed.blackbox.text.tensors import text_of, text_tensor
from promptfed.blackbox.text.word_list import packed, unpacked
from promptfed.blackbox.tokens.word_vectors import Embedder, word_vectors
from promptfed.prompt_state import PromptState
from promptfed.types import Update

LEAST_REACH = 1e-6
"""Least reach: equal words are always in one cluster."""
WIDEST_REACH = 0.6
"""Words further apart than this cosine distance have nothing in common."""


@dataclass(frozen=True)
class Word:
    """A client's word, its position (0 first), and its client's share of all samples."""

    text: str
    position: int
    weight: float


class TokenClustering(Aggregator):
    """Aggregator that makes the next prompt of the clients' words: UTF-8 bytes, one word a line.

    1. Unit vectors of all words; attention ``A = softmax(cos / temperature)`` row by row; a word's score is the
       attention that all words pay to it, each by its client's samples: high where many mean the same.
    2. DBSCAN on cosine distances. Its reach is the elbow of the sorted distances to the nearest other word.
    3. A cluster has the sum of its words' scores and is spoken for by its best word; words outside of clusters come
       after them by their own scores, and then the clusters' other words.
    4. The best are taken, as many as the prompts' mean length (by samples), and stand in the order of the weighted
       median position of their cluster.

    [abs] of the paper names attention, elbow, DBSCAN; which vectors, how scores decide, length and order are ours. The
    words come sorted, so nothing depends on the order of clients. A single client's words are taken as they are.
    """

    def __init__(self, n_tokens: int, embedder: Embedder, min_samples: int, temperature: float) -> None:
        super().__init__(AggregatorConfig())
        self.n_tokens, self.embedder = n_tokens, embedder
        self.min_samples, self.temperature = min_samples, temperature

    def apply(
        self, shared: PromptState, updates: Sequence[Update], server: PromptState
    ) -> tuple[PromptState, PromptState]:
        prompts = [unpacked(text_of(update.shared["words"]), self.n_tokens) for update in updates]
        if len(prompts) == 1:
            return PromptState({"words": text_tensor(packed(prompts[0]))}), server
        total = sum(update.samples for update in updates)
        words = [
            Word(text, position, update.samples / total)
            for prompt, update in zip(prompts, updates, strict=True)
            for position, text in enumerate(prompt)
        ]
        mean = sum(update.samples * len(prompt) for prompt, update in zip(prompts, updates, strict=True)) / total
        new_words = self.merged(words, int(mean + 0.5))
        return PromptState({"words": text_tensor(packed(new_words))}), server

    def merged(self, words: Sequence[Word], length: int) -> list[str]:
        """Return at most ``length`` words that stand for all of ``words``."""
        words = sorted(words, key=lambda word: (word.text, word.position, word.weight))
        if not words or not length:
            return []
        vectors = word_vectors([word.text for word in words], self.embedder).numpy()
        cosines = np.clip(vectors @ vectors.T, -1, 1)
        scores = attention_received(cosines, np.array([word.weight for word in words]), self.temperature)
        clusters = clustered(1 - cosines, self.min_samples)
        # rank: representatives of clusters, then words on their own, then the clusters' other words
        order: list[tuple[int, float, int, float]] = []
        for cluster in sorted(set(clusters.tolist())):
            members = np.flatnonzero(clusters == cluster)
            best_first = members[np.argsort(-scores[members], kind="stable")].tolist()
            middle = weighted_median([(words[i].position, words[i].weight) for i in members])
            for rank, i in enumerate(best_first):
                if cluster < 0:
                    order.append((1, -scores[i], i, words[i].position))
                elif rank == 0:
                    order.append((0, -float(scores[members].sum()), i, middle))
                else:
                    order.append((2, -scores[i], i, words[i].position))
        positions = sorted(order)[:length]
        return [words[i].text for _, _, i, _ in sorted(positions, key=lambda entry: (entry[3], entry[2]))]


def attention_received(cosines: Matrix, weights: Vector, temperature: float) -> Vector:
    """Return ``(n,)``: ``sum_i w_i A_ij`` with ``A = softmax(cos / temperature)`` over j, rounded."""
    attention = np.exp((cosines - cosines.max(axis=1, keepdims=True)) / temperature)
    attention /= attention.sum(axis=1, keepdims=True)
    attention_sum: Vector = np.round(weights @ attention, 9)
    return attention_sum


def elbow(values: Vector) -> float:
    """Return the bend of the rising curve of sorted ``values``: the point furthest below the line between its ends.

    Of a curve without a bend (fewer than three values, a straight line), the largest value.
    """
    ordered = np.sort(values)
    if len(ordered) < 3:
        return float(ordered[-1]) if len(ordered) else 0.0
    line = np.linspace(ordered[0], ordered[-1], len(ordered))
    below = np.round(line - ordered, 9)
    return float(ordered[int(np.argmax(below))] if below.max() > 0 else ordered[-1])


def clustered(distances: Matrix, min_samples: int) -> npt.NDArray[np.int64]:
    """Return DBSCAN's cluster of each word ``(n,)``, -1 for none."""
    from sklearn.cluster import DBSCAN

    distances = np.round(distances.clip(min=0), 9)
    if len(distances) == 1:
        return np.array([-1])
    nearest: Vector = np.where(np.eye(len(distances), dtype=bool), np.inf, distances).min(axis=1)
    reach = min(max(elbow(nearest), LEAST_REACH), WIDEST_REACH)
    clusters: npt.NDArray[np.int64] = (
        DBSCAN(eps=reach, min_samples=min_samples, metric="precomputed").fit(distances).labels_
    )
    return clusters


def weighted_median(pairs: Sequence[tuple[int, float]]) -> float:
    """Return the value at which half of the weight is reached."""
    ordered = sorted(pairs)
    half, total = sum(weight for _, weight in ordered) / 2, 0.0
    for value, weight in ordered:
        total += weight
        if total >= half - 1e-12:
            return float(value)
    raise ValueError("no values")
