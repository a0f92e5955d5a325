"""Recommendations that need no text: what is popular, what is chosen together, and what follows what."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

LAST = 3
"""Choices that the Markov chain goes on from."""
FADING = 0.8
"""Weight of a choice, by which the one before it counts less."""
NEIGHBOURS_OF = 10
"""Choices whose neighbours item-kNN adds up."""


def popularity(sequences: Sequence[Sequence[int]], items: int) -> np.ndarray:
    """Return how often each item was chosen ``(items,)``."""
    return np.bincount([k for chosen in sequences for k in chosen], minlength=items).astype(float)


def neighbours(sequences: Sequence[Sequence[int]], items: int) -> np.ndarray:
    """Return cosines ``(items, items)`` of who chose them; an item is no neighbour of its own."""
    chosen = np.zeros((len(sequences), items))
    for user, sequence in enumerate(sequences):
        chosen[user, list(sequence)] = 1
    lengths = np.sqrt(chosen.sum(0))
    cosines = (chosen.T @ chosen) / np.maximum(np.outer(lengths, lengths), 1)
    np.fill_diagonal(cosines, 0)
    return cosines


def followers(sequences: Sequence[Sequence[int]], items: int) -> np.ndarray:
    """Return how often the second item ``(items, items)`` came next, as a share of how often the first was chosen."""
    counts = np.zeros((items, items))
    for chosen in sequences:
        for before, after in pairwise(chosen):
            counts[before, after] += 1
    shares: np.ndarray = counts / np.maximum(popularity(sequences, items), 1)[:, None]
    return shares


def figures(scores: np.ndarray, tests: Sequence[tuple[Sequence[int], int]]) -> tuple[float, float]:
    """Return (Recall@10, nDCG@10) of scores ``(tests, items)``; what was chosen before is left out."""
    recalls, gains = [], []
    for row, (history, target) in zip(scores, tests, strict=True):
        open_row = row.copy()
        open_row[list(history)] = -np.inf
        rank = 1 + int((open_row > open_row[target]).sum() + (open_row[:target] == open_row[target]).sum())
        recalls.append(float(rank <= 10))
        gains.append(1 / math.log2(rank + 1) if rank <= 10 else 0.0)
    return float(np.mean(recalls)), float(np.mean(gains))


def trivial_note(sequences: Sequence[Sequence[int]], tests: Sequence[tuple[Sequence[int], int]], items: int) -> str:
    """Return a line with what recommendations without texts reach, learned from the sequences of all clients."""
    common = popularity(sequences, items)
    cosines, chain = neighbours(sequences, items), followers(sequences, items)
    tie = common / (1 + common.max()) * 1e-6  # the more popular of equals
    fading = FADING ** np.arange(LAST)[::-1]
    rows = {
        "popularity": np.tile(common, (len(tests), 1)),
        f"item-kNN (last {NEIGHBOURS_OF})": np.stack(
            [cosines[list(h[-NEIGHBOURS_OF:])].sum(0) + tie for h, _ in tests]
        ),
        f"Markov over the last {LAST}": np.stack(
            [fading[-len(h[-LAST:]) :] @ chain[list(h[-LAST:])] + tie for h, _ in tests]
        ),
    }
    each = {name: figures(scores, tests) for name, scores in rows.items()}
    listed = "; ".join(f"{name} {100 * recall:.1f} and {100 * gain:.1f}" for name, (recall, gain) in each.items())
    return (
        f"without texts, and with all clients' choices in one place, Recall@10 and nDCG@10 in % on the {len(tests)} "
        f"test choices: {listed}"
    )
