"""Vote-k: a few texts that stand for many (Su et al. 2022, arXiv 2209.01975), as FeS selects what to label."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from promptfed.methods.fes.neighbours import centred, nearest_others

NEIGHBOURS = 150
"""Votes of a text in FeS."""


def vote_k(votes: Tensor, count: int) -> list[int]:
    """Pick texts greedily by the votes for them.

    A voter gives ``10 ** -t``, where t is the number of picked texts that it votes for, and nothing once it is picked
    itself. Of equal sums, the text that is voted for first wins: voters in their order, each one's votes in theirs.
    Texts without a vote come last.

    Args:
        votes: Whom each text votes for ``(n, k)``.
        count: How many to pick, at most n.

    Returns:
        The picked rows, in the order of picking.
    """
    table = votes.numpy()
    n, k = table.shape
    order = _by_first_vote(table)
    open_, weights, picks = np.ones(n, dtype=bool), np.ones(n), list[int]()
    for _ in range(min(count, n)):
        # Summed in the order of the voters, so that equal votes give equal sums.
        sums = np.bincount(table.ravel(), np.repeat(weights * open_, k), minlength=n)
        candidates = order[open_[order]]
        choice = int(candidates[np.argmax(sums[candidates])])
        picks.append(choice)
        open_[choice] = False
        weights[(table == choice).any(axis=1)] /= 10
    return picks


def _by_first_vote(table: np.ndarray) -> np.ndarray:
    """Return all rows in the order in which they are first voted for, then those that nobody votes for."""
    rows, places = np.unique(table.ravel(), return_index=True)
    first = rows[np.argsort(places)]
    return np.concatenate([first, np.setdiff1d(np.arange(len(table)), first)]).astype(np.int64)


def representatives(embeddings: Tensor, count: int, neighbours: int = NEIGHBOURS) -> list[int]:
    """Return ``count`` texts that vote-k picks, in the order of picking.

    Args:
        embeddings: ``(n, dim)``. They are centred before their cosines are taken.
        count: At most n.
        neighbours: The votes of each text.
    """
    if len(embeddings) < 2:
        return list(range(min(count, len(embeddings))))
    return vote_k(nearest_others(centred(embeddings), neighbours).to(torch.int64).cpu(), count)
