"""Allocations by rule: at random, as users prefer, the lowest, and an expert that knows the cell and searches."""

from __future__ import annotations

from itertools import product

import numpy as np

from promptfed.allocation.cell import (
    BANDWIDTH,
    DEADLINE,
    LEVELS,
    RESOLUTIONS,
    SMALLEST_SHARE,
    USERS,
    Allocation,
    Floats,
    Ints,
    Trace,
    pleasure,
    spectral_efficiency,
)

CHOICES = np.array(list(product(range(len(RESOLUTIONS)), repeat=LEVELS)), dtype=np.int64)
"""All choices of resolutions for one user, ``(64, LEVELS)``."""
HALVINGS = 14
"""Steps of the search for the price of bandwidth."""
DEAREST = 64.0
"""QoE that the whole bandwidth costs at most."""
NEVER, SOONEST = 100.0, 1e-3
"""The share of the bandwidth with which tiles come in time that take too long to render, and seconds left for that."""
ROWS = 512
"""Slots that are searched together."""


def expert(trace: Trace, preferred: Ints, rate: Floats | float) -> Allocation:
    """Return the allocation of an expert that knows what users prefer and how fast the server renders.

    It searches, slot by slot, all choices of each user for those that please most and come in time: bandwidth has a
    price, which is halved until the whole of it is asked for. What is left over is dealt out in proportion.

    Args:
        trace: What comes, ``(..., USERS, LEVELS)`` and ``(..., USERS)``.
        preferred: What users prefer, ``(USERS, LEVELS)``, or one for each slot.
        rate: What the server renders, a number, or ``(..., 1)``.
    """
    slots = trace.snr.shape[:-1]
    wishes = np.broadcast_to(preferred, trace.tiles.shape).reshape(-1, USERS, LEVELS)
    rates = np.broadcast_to(rate, trace.snr.shape).reshape(-1, USERS)
    tiles, snr = trace.tiles.reshape(-1, USERS, LEVELS), trace.snr.reshape(-1, USERS)
    parts = [
        _expert(
            tiles[first : first + ROWS],
            snr[first : first + ROWS],
            wishes[first : first + ROWS],
            rates[first : first + ROWS],
        )
        for first in range(0, len(snr), ROWS)
    ]
    index, share = (np.concatenate(some) for some in zip(*parts, strict=True))
    return Allocation(index.reshape(*slots, USERS, LEVELS), share.reshape(*slots, USERS))


def _expert(tiles: Ints, snr: Floats, preferred: Ints, rate: Floats) -> tuple[Ints, Floats]:
    """Return indices and shares for slots ``(n, USERS, ...)``."""
    worth = pleasure(CHOICES, preferred[..., None, :])
    bits = tiles @ RESOLUTIONS[CHOICES].T
    left = DEADLINE - bits / rate[..., None]
    capacity = BANDWIDTH * spectral_efficiency(snr)[..., None]
    need = np.where(left > SOONEST, bits / (capacity * np.maximum(left, SOONEST)), NEVER)
    chosen = need.argmin(-1)
    low, high = np.zeros(len(snr)), np.full(len(snr), DEAREST)
    for _ in range(HALVINGS):
        price = (low + high) / 2
        asked = (worth - price[:, None, None] * need).argmax(-1)
        fits = _of(need, asked).sum(-1) <= 1
        chosen = np.where(fits[:, None], asked, chosen)
        low, high = np.where(fits, low, price), np.where(fits, price, high)
    shares = _of(need, chosen).clip(SMALLEST_SHARE, 1)
    return CHOICES[chosen], shares / shares.sum(-1, keepdims=True)


def _of(table: Floats, chosen: Ints) -> Floats:
    """Return the entries of ``table`` ``(n, USERS, 64)`` that are chosen."""
    entries: Floats = np.take_along_axis(table, chosen[..., None], -1)[..., 0]
    return entries


def at_random(shape: tuple[int, ...], draw: np.random.Generator) -> Allocation:
    """Return random resolutions and shares for slots of this ``shape``."""
    index = draw.integers(0, len(RESOLUTIONS), (*shape, USERS, LEVELS))
    return Allocation(index, draw.dirichlet(np.ones(USERS), shape))


def equal_shares(shape: tuple[int, ...]) -> Floats:
    """Return the same share for each user."""
    return np.full((*shape, USERS), 1 / USERS)


def as_preferred(trace: Trace, preferred: Ints) -> Allocation:
    """Return what users prefer, and equal shares."""
    return Allocation(np.broadcast_to(preferred, trace.tiles.shape).copy(), equal_shares(trace.snr.shape[:-1]))


def lowest(trace: Trace) -> Allocation:
    """Return the lowest resolution for all, and equal shares."""
    return Allocation(np.zeros_like(trace.tiles), equal_shares(trace.snr.shape[:-1]))
