"""Made-up cells of one region, such as the arcades of a chain: the same seats, and users who want much the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from promptfed.allocation.cell import Allocation, Cell, as_actions, make_cell, make_trace, outcome
from promptfed.allocation.expert import at_random, expert
from promptfed.examples.episodes import Log
from promptfed.seeding import derive, numpy_stream

BEHAVIOURS = ("expert", "expert with errors", "random")
"""Who acted in logged episodes, each in a third of them."""
ERRORS = 0.3
"""Share of the slots in which an expert with errors acts at random."""
RADIO, SPEED = 8.0, 0.5
"""At a spread of 1: deviations of users' mean SNR in dB, and of the logarithm of the server's speed."""


def region(count: int, spread: float, seed: int) -> list[Cell]:
    """Return cells, which depend on ``seed`` alone.

    ``spread`` is how much they differ: at 0 in their users' gaze alone, at 1 they have little in common.
    """
    usual = make_cell("usual", numpy_stream(seed, "region"))
    cells = []
    for number in range(count):
        draw = numpy_stream(seed, "cell", number)
        own = make_cell(f"cell {number}", draw)
        differs = draw.random(usual.preferred.shape) < spread
        snr = usual.snr + spread * RADIO * draw.standard_normal(len(usual.snr))
        rate = usual.rate * np.exp(spread * SPEED * draw.standard_normal())
        cells.append(
            replace(
                own,
                preferred=np.where(differs, own.preferred, usual.preferred),
                snr=snr.clip(0, 20),
                rate=float(np.clip(rate, 100, 400)),
            )
        )
    return cells


def logged(cell: Cell, seeds: Sequence[int], steps: int) -> list[Log]:
    """Return what was logged in episodes of ``cell``, one a seed; who acted is drawn by that seed."""
    logs = []
    for seed in seeds:
        trace, draw = make_trace(cell, steps, seed), numpy_stream(seed, "behaviour")
        kind, done = BEHAVIOURS[draw.integers(len(BEHAVIOURS))], at_random((steps,), draw)
        if kind != "random":
            best = expert(trace, cell.preferred, cell.rate)
            wrong = (draw.random(steps) < ERRORS) & (kind != "expert")
            done = Allocation(
                np.where(wrong[:, None, None], done.index, best.index), np.where(wrong[:, None], done.share, best.share)
            )
        rewards, _ = outcome(trace, done, cell.preferred, cell.rate)
        logs.append(Log(trace.observations, as_actions(done), rewards.astype(np.float32)))
    return logs


def episode_seeds(seed: int, use: str, cell: int, count: int) -> list[int]:
    """Return the seeds of ``count`` episodes of a cell; ``use`` keeps those of training and tests apart."""
    return [derive(seed, use, cell, number) for number in range(count)]
