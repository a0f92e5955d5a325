"""Train the bundled policy `dt` on made-up cells, on one CPU core in about ten minutes.

    python scripts/make_decision_transformer.py --out promptfed/policies/dt_weights

Each cell has users with preferences, radio and a server of its own, all at random. The network learns to say what was
done in some slots of a cell: by an expert that knows the cell, by the same with errors, or at random. Most of the time
a piece of another episode of the expert in the same cell stands before them: so it learns that a prompt tells about the
cell. No cell of the tests is among them.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from small_training import save, train
from torch import Tensor

from promptfed.allocation.cell import Allocation, Trace, as_actions, make_cell, make_trace, outcome
from promptfed.allocation.expert import at_random, expert
from promptfed.policies.dt_network import CONTEXT, PIECE, DecisionTransformer, action_loss
from promptfed.seeding import derive, numpy_stream

SEED = 7
LENGTH = PIECE + CONTEXT
BEHAVIOURS = (0.6, 0.2, 0.2)
"""Shares of the expert, of the expert with errors, and of random actions."""
ERRORS = 0.3
NO_PROMPT = 0.15
"""Share of the batches without a piece of a trajectory."""


class Pool:
    """Slots of many cells, with what the expert does in them."""

    def __init__(self, cells: int, draw: np.random.Generator) -> None:
        made = [make_cell(str(number), draw) for number in range(cells)]
        pieces = [
            [make_trace(cell, slots, derive(SEED, "pool", number, part)) for part, slots in enumerate((PIECE, CONTEXT))]
            for number, cell in enumerate(made)
        ]
        traces = [
            Trace(*(np.concatenate([getattr(piece, name) for piece in pair]) for name in ("tiles", "snr", "change")))
            for pair in pieces
        ]
        self.trace = Trace(
            *(np.stack([getattr(trace, name) for trace in traces]) for name in ("tiles", "snr", "change"))
        )
        self.preferred = np.stack([cell.preferred for cell in made])[:, None]
        self.rate = np.array([cell.rate for cell in made])[:, None, None]
        self.best = expert(self.trace, self.preferred, self.rate)

    def batch(self, size: int, draw: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Return mean returns ``(size, LENGTH)``, observations and actions ``(size, LENGTH, FEATURES)``."""
        rows = draw.integers(0, len(self.rate), size)
        trace, best = self.trace[rows], Allocation(self.best.index[rows], self.best.share[rows])
        kind = draw.choice(len(BEHAVIOURS), size, p=BEHAVIOURS)
        other = at_random((size, LENGTH), draw)
        in_context = (np.arange(LENGTH) >= PIECE)[None, :]
        wrong = ((kind == 2)[:, None] | ((kind == 1)[:, None] & (draw.random((size, LENGTH)) < ERRORS))) & in_context
        done = Allocation(
            np.where(wrong[..., None, None], other.index, best.index),
            np.where(wrong[..., None], other.share, best.share),
        )
        rewards, _ = outcome(trace, done, self.preferred[rows], self.rate[rows])
        numbers = mean_to_come(rewards[:, :PIECE]), mean_to_come(rewards[:, PIECE:])
        returns = torch.from_numpy(np.concatenate(numbers, 1)).float()
        return returns, torch.from_numpy(trace.observations), torch.from_numpy(as_actions(done))


def mean_to_come(rewards: np.ndarray) -> np.ndarray:
    """Return the mean reward from each slot on, for rewards ``(n, slots)``."""
    left = np.arange(rewards.shape[1], 0, -1)
    return np.cumsum(rewards[:, ::-1], 1)[:, ::-1] / left


def main() -> None:
    """Train, and write weights and config."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cells", type=int, default=12000)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--batch", type=int, default=64)
    options = parser.parse_args()
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    network, draw = DecisionTransformer(), numpy_stream(SEED, "cells")
    began = time.perf_counter()
    pool = Pool(options.cells, draw)
    print(f"pool {time.perf_counter() - began:.0f} s", flush=True)

    def loss_of_a_batch() -> Tensor:
        returns, observations, actions = pool.batch(options.batch, draw)
        prompt = None
        if draw.random() >= NO_PROMPT:
            prompt = network.piece(returns[:, :PIECE], observations[:, :PIECE], actions[:, :PIECE])
        logits = network(returns[:, PIECE:], observations[:, PIECE:], actions[:, PIECE:], prompt)
        return action_loss(logits, actions[:, PIECE:]).mean()

    train(network, options.steps, loss_of_a_batch)
    save(network, options.out, {"cells": options.cells, "steps": options.steps, "batch": options.batch})


if __name__ == "__main__":
    main()
