"""Train the directions in which prompts of the bundled policy `dt` differ, on one CPU core in about five minutes.

    python scripts/make_prompt_basis.py --out promptfed/policies/dt_basis

Each of many made-up cells has weights of its own, which with the directions make its prompt. Both are trained together,
so that the frozen policy does behind a cell's prompt what the expert does in that cell. They begin as the principal
components of the mean embedded pieces of the cells' trajectories. A step uses the first directions only, a number of
them that is drawn: so the first ones matter most, and any number of them is a basis. Behind the trained directions
stand principal components of what they leave of the pieces. No cell of a task is among these.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import numpy as np
import torch
from small_training import save
from torch import Tensor

from promptfed.allocation.cell import Trace, as_actions, make_cell, make_trace, outcome
from promptfed.allocation.expert import expert
from promptfed.examples.episodes import EpisodeForm
from promptfed.policies.dt_network import CONTEXT, PIECE, action_loss
from promptfed.policies.loading import load_policy
from promptfed.policies.prompt_basis import DIRECTIONS, PromptBasis
from promptfed.seeding import derive, numpy_stream

SEED = 16
SLOTS = 30
TRAINED = 32
"""Directions that are trained; the others are principal components."""
RANKS = (12, 16, 16, 16, 16, 24, 32)
"""The numbers of directions that a step draws from."""
RATE, RATE_OF_WEIGHTS = 0.006, 0.05
DECAY = 1e-3
"""How strongly weights are drawn to 0."""


class Cells:
    """Slots of many cells, with what the expert does in them."""

    def __init__(self, count: int) -> None:
        draw = numpy_stream(SEED, "public cells")
        cells = [make_cell(str(number), draw) for number in range(count)]
        traces = [make_trace(cell, SLOTS, derive(SEED, "public", number)) for number, cell in enumerate(cells)]
        trace = Trace(*(np.stack([getattr(one, name) for one in traces]) for name in ("tiles", "snr", "change")))
        preferred = np.stack([cell.preferred for cell in cells])[:, None]
        rate = np.array([cell.rate for cell in cells])[:, None, None]
        best = expert(trace, preferred, rate)
        self.rewards = torch.from_numpy(outcome(trace, best, preferred, rate)[0]).float()
        self.observations, self.actions = torch.from_numpy(trace.observations), torch.from_numpy(as_actions(best))

    def stretch(self, rows: Tensor, first: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return mean rewards to come, observations and actions of five slots of some cells."""
        slots = first[:, None] + torch.arange(CONTEXT)
        rewards = self.rewards[rows[:, None], slots]
        to_come = rewards.flip(1).cumsum(1).flip(1) / torch.arange(CONTEXT, 0, -1)
        return to_come, self.observations[rows[:, None], slots], self.actions[rows[:, None], slots]


def principal(rows: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the first principal components of centred ``rows``, as long as they deviate, and each row's weights."""
    left, sizes, right = torch.linalg.svd(rows, full_matrices=False)
    scale = math.sqrt(len(rows))
    return sizes[:count, None] / scale * right[:count], left[:, :count] * scale


def main() -> None:
    """Train, and write the basis and its config."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cells", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--batch", type=int, default=64)
    options = parser.parse_args()
    torch.set_num_threads(1)
    draw = torch.Generator().manual_seed(SEED)
    network = load_policy("dt", EpisodeForm()).network
    cells, count = Cells(options.cells), options.cells
    every = torch.arange(count)
    with torch.no_grad():
        parts = [cells.stretch(every, torch.full((count,), first)) for first in range(0, SLOTS, PIECE)]
        pieces = torch.stack([network.piece(*part) for part in parts]).mean(0)
        centred = (pieces - pieces.mean(0)).flatten(1).double()
        directions, first_weights = principal(centred, TRAINED)
        basis = PromptBasis(TRAINED)
        basis.start.copy_(pieces.mean(0))
        basis.directions.copy_(directions.view_as(basis.directions))
        weights = torch.nn.Parameter(first_weights.float())
    optimizer = torch.optim.Adam([{"params": list(basis.parameters())}, {"params": [weights]}])
    began, mean = time.perf_counter(), 0.0
    for step in range(options.steps):
        rate = 0.5 * (1 + math.cos(math.pi * step / options.steps))
        for group, highest in zip(optimizer.param_groups, (RATE, RATE_OF_WEIGHTS), strict=True):
            group["lr"] = highest * rate
        rows = torch.randperm(count, generator=draw)[: options.batch]
        first = torch.randint(0, SLOTS - CONTEXT + 1, (options.batch,), generator=draw)
        rank = RANKS[int(torch.randint(0, len(RANKS), (1,), generator=draw))]
        returns, observations, actions = cells.stretch(rows, first)
        out = network(returns, observations, actions, basis(weights[rows, :rank]))
        loss = action_loss(out, actions).mean() + DECAY * weights[rows].square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        mean = loss.item() if step == 0 else 0.98 * mean + 0.02 * loss.item()
        if step % 100 == 0 or step == options.steps - 1:
            print(f"{step} loss {mean:.4f} {time.perf_counter() - began:.0f} s", flush=True)
    with torch.no_grad():
        basis.start += basis(weights.mean(0, keepdim=True))[0] - basis.start
        basis.directions *= weights.std(0)[:, None, None]
        span = torch.linalg.qr(basis.directions.flatten(1).double().T).Q
        others, _ = principal(centred - centred @ span @ span.T, DIRECTIONS - TRAINED)
        whole = PromptBasis()
        whole.start.copy_(basis.start)
        whole.directions.copy_(torch.cat([basis.directions, others.float().view(-1, *basis.start.shape)]))
    save(whole, options.out, {"cells": options.cells, "steps": options.steps, "batch": options.batch})


if __name__ == "__main__":
    main()
