"""A radio cell whose edge server renders virtual reality for its users, and what an allocation is worth there.

In each slot a user looks at 24 tiles, each on one of three levels of attention: in the centre of the gaze, beside it,
or far from it. The server chooses a resolution for each user and level, and each user's share of the bandwidth. Tiles
in high resolution please and take long. What a slot is worth to a user, its quality of experience (QoE), is at most 1::

    bits    = sum over levels of tiles * resolution
    latency = bits / (80 MHz * share * log2(1 + SNR)) + bits / rate
    QoE     = sum over levels of w * min(ln(1 + resolution) / ln(1 + preferred), 1)
              - 0.05 * mean |index - preferred index| - min(1, max(0, latency - 0.2 s) / 0.2 s)

with w = (.6, .3, .1). A slot is worth the mean over its users. Resolutions are in Mbit a tile.

What users prefer, how good their radio is on average and how fast the server renders differ from cell to cell, and an
observation shows none of it: it has the tiles, and how far each SNR is from its user's mean.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from promptfed.seeding import numpy_stream

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
USERS, LEVELS, TILES = 4, 3, 24
RESOLUTIONS = np.array([0.25, 0.5, 1.0, 2.0])
"""Mbit of a tile, from low to high."""
WEIGHTS = np.array([0.6, 0.3, 0.1])
"""What the levels of attention count: centre, beside, far."""
BANDWIDTH, DEADLINE = 80.0, 0.2
"""MHz, and seconds after which a slot is late."""
DISTANCE = 0.05
"""What a resolution costs that is one step away from the preferred one, averaged over levels."""
MEMORY, WANDER = 0.9, 1.0
"""How much of the SNR's deviation from a user's mean stays in the next slot, and its standard deviation in dB."""
SMALLEST_SHARE = 1e-3
"""A smaller share of the bandwidth counts as this."""
FEATURES = USERS * LEVELS + USERS
"""Length of an observation."""
LOWEST, HIGHEST = -1.2, 1.0
"""Bounds of a reward."""


@dataclass(frozen=True, eq=False)
class Cell:
    """What stays the same in one cell.

    Attributes:
        name: What messages call it.
        preferred: Each user's preferred resolution on each level, an index ``(USERS, LEVELS)``.
        snr: Each user's mean signal-to-noise ratio in dB, ``(USERS,)``.
        gaze: The parameter of the Dirichlet distribution of attention, ``(LEVELS,)``.
        rate: Mbit that the server renders in a second for each user.
    """

    name: str
    preferred: Ints
    snr: Floats
    gaze: Floats
    rate: float


@dataclass(frozen=True, eq=False)
class Trace:
    """What comes in some slots whatever is done.

    Attributes:
        tiles: How many tiles each user looks at on each level, ``(..., USERS, LEVELS)``.
        snr: Each user's SNR in dB, ``(..., USERS)``.
        change: How far it is from that user's mean.
    """

    tiles: Ints
    snr: Floats
    change: Floats

    def __getitem__(self, slots: Any) -> Trace:
        """Return some of the slots."""
        return Trace(self.tiles[slots], self.snr[slots], self.change[slots])

    @property
    def observations(self) -> npt.NDArray[np.float32]:
        """What a policy sees, numbers of about -1 to 1, ``(..., FEATURES)``."""
        tiles = self.tiles.reshape(*self.tiles.shape[:-2], USERS * LEVELS) / TILES
        return np.concatenate([tiles, self.change / 2], -1).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Allocation:
    """What is done: a resolution's ``index`` ``(..., USERS, LEVELS)`` and a ``share`` ``(..., USERS)`` of sum 1."""

    index: Ints
    share: Floats


def make_cell(name: str, draw: np.random.Generator, preferred: Ints | None = None) -> Cell:
    """Return a cell with users at random places; what they prefer is random too unless it is given."""
    wishes = draw.integers(0, len(RESOLUTIONS), (USERS, LEVELS)) if preferred is None else preferred
    return Cell(name, wishes, draw.uniform(0, 20, USERS), draw.uniform(1, 6, LEVELS), float(draw.uniform(100, 400)))


def make_trace(cell: Cell, steps: int, seed: int) -> Trace:
    """Return what comes in ``steps`` slots of ``cell``; it depends on the cell and on ``seed`` alone."""
    draw = numpy_stream(seed, "slots")
    tiles = draw.multinomial(TILES, draw.dirichlet(cell.gaze, (steps, USERS)))
    noise = draw.standard_normal((steps, USERS))
    deviations = np.empty((steps, USERS))
    deviations[0] = WANDER * noise[0]
    for step in range(1, steps):
        deviations[step] = MEMORY * deviations[step - 1] + np.sqrt(1 - MEMORY**2) * WANDER * noise[step]
    return Trace(tiles.astype(np.int64), cell.snr + deviations, deviations)


def spectral_efficiency(snr: Floats) -> Floats:
    """Return the bits a second that a Hz carries at ``snr`` dB."""
    carried: Floats = np.log2(1 + 10 ** (snr / 10))
    return carried


def pleasure(index: Ints, preferred: Ints) -> Floats:
    """Return the QoE ``(..., USERS)`` of resolutions ``(..., USERS, LEVELS)`` that come in time."""
    shown, wished = np.log1p(RESOLUTIONS[index]), np.log1p(RESOLUTIONS[preferred])
    enough = (WEIGHTS * np.minimum(shown / wished, 1)).sum(-1)
    worth: Floats = enough - DISTANCE * np.abs(index - preferred).mean(-1)
    return worth


def outcome(trace: Trace, allocation: Allocation, preferred: Ints, rate: Floats | float) -> tuple[Floats, Floats]:
    """Return the reward of each slot and the share of its users that are late, both ``(...)``.

    Args:
        trace: What came, ``(..., USERS, LEVELS)`` and ``(..., USERS)``.
        allocation: What was done.
        preferred: What users prefer, with dimensions that broadcast to those of the tiles.
        rate: What the server renders, likewise to those of the SNR.
    """
    bits = (trace.tiles * RESOLUTIONS[allocation.index]).sum(-1)
    share = np.maximum(allocation.share, SMALLEST_SHARE)
    latency = bits / (BANDWIDTH * share * spectral_efficiency(trace.snr)) + bits / rate
    late = np.minimum(1.0, np.maximum(0.0, latency - DEADLINE) / DEADLINE)
    worth = pleasure(allocation.index, preferred) - late
    return worth.mean(-1), (latency > DEADLINE * (1 + 1e-9)).mean(-1)


class CellEnvironment:
    """A cell behind the interface of gymnasium's environments, without the package: ``reset`` and ``step``.

    Args:
        cell: The cell.
        steps: Slots of an episode.
    """

    def __init__(self, cell: Cell, steps: int = 50) -> None:
        self.cell, self.steps = cell, steps
        self._trace: Trace | None = None
        self._step = 0

    def reset(
        self, *, seed: int = 0, options: dict[str, Any] | None = None
    ) -> tuple[npt.NDArray[np.float32], dict[str, Any]]:
        """Begin an episode, which depends on ``seed`` alone. Returns the first observation and nothing else."""
        self._trace, self._step = make_trace(self.cell, self.steps, seed), 0
        return self._trace.observations[0], {}

    def step(self, action: npt.ArrayLike) -> tuple[npt.NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Do ``action`` in this slot.

        Args:
            action: ``USERS * LEVELS`` indices of resolutions, then the ``USERS`` shares of the bandwidth, of sum 1.

        Returns:
            The next observation (after the last slot the last one again), the reward, whether the episode ended in
            itself (never), whether its last slot is over, and the share of users that are ``late``.

        Raises:
            ValueError: No episode is under way, or the action is none.
        """
        if self._trace is None or self._step >= self.steps:
            raise ValueError("no episode is under way: call reset() first")
        allocation = as_allocation(np.asarray(action, dtype=np.float64))
        reward, late = outcome(self._trace[self._step], allocation, self.cell.preferred, self.cell.rate)
        self._step += 1
        shown = self._trace.observations[min(self._step, self.steps - 1)]
        return shown, float(reward), False, self._step >= self.steps, {"late": float(late)}


def as_allocation(action: Floats) -> Allocation:
    """Return actions ``(..., FEATURES)`` as an allocation. Raises ValueError for one that cannot be."""
    if action.shape[-1:] != (FEATURES,):
        raise ValueError(f"an action has {FEATURES} numbers, and this has {action.shape[-1] if action.ndim else 1}")
    index, share = action[..., : USERS * LEVELS], action[..., USERS * LEVELS :]
    top = len(RESOLUTIONS) - 1
    if not np.isfinite(action).all() or (index != np.round(index)).any() or (index < 0).any() or (index > top).any():
        raise ValueError(f"the first {USERS * LEVELS} numbers of an action are indices of resolutions, 0 to {top}")
    if (share < 0).any() or (np.abs(share.sum(-1) - 1) > 1e-3).any():
        raise ValueError(f"the last {USERS} numbers of an action are shares of the bandwidth, with sum 1")
    return Allocation(index.reshape(*index.shape[:-1], USERS, LEVELS).astype(np.int64), share)


def as_actions(allocation: Allocation) -> npt.NDArray[np.float32]:
    """Return an allocation as actions ``(..., FEATURES)``."""
    index = allocation.index.reshape(*allocation.index.shape[:-2], USERS * LEVELS)
    return np.concatenate([index, allocation.share], -1).astype(np.float32)
