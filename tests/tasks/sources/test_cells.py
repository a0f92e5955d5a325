"""Made-up cells: who acted in a log, and how good that was."""

from __future__ import annotations

import numpy as np

from promptfed.allocation.cell import Cell, as_actions, as_allocation, make_trace, outcome
from promptfed.allocation.expert import expert
from promptfed.tasks.sources.cells import episode_seeds, logged, region


def wrong_slots(cell: Cell, seed: int) -> float:
    """The share of slots in which somebody else than the expert acted."""
    (log,) = logged(cell, [seed], 50)
    trace = make_trace(cell, 50, seed)
    best = as_actions(expert(trace, cell.preferred, cell.rate))
    return float((np.abs(log.actions - best) > 1e-6).any(1).mean())


def test_an_expert_an_expert_with_errors_or_chance_acted() -> None:
    (cell,) = region(1, 0.2, 0)
    wrong = np.array([wrong_slots(cell, seed) for seed in episode_seeds(0, "train", 0, 60)])
    by_expert, by_chance = wrong == 0, wrong > 0.9
    with_errors = ~by_expert & ~by_chance
    assert min(by_expert.sum(), by_chance.sum(), with_errors.sum()) >= 10
    assert 0.2 < wrong[with_errors].mean() < 0.4


def test_the_same_seed_gives_the_same_log() -> None:
    (cell,) = region(1, 0.2, 0)
    one, other = (logged(cell, [seed], 20)[0] for seed in (3, 3))
    assert np.array_equal(one.actions, other.actions)


def test_a_log_says_what_its_actions_earned() -> None:
    cell = region(3, 0.5, 1)[2]
    (seed,) = episode_seeds(1, "train", 2, 1)
    (log,) = logged(cell, [seed], 30)
    rewards, _ = outcome(
        make_trace(cell, 30, seed), as_allocation(log.actions.astype(float)), cell.preferred, cell.rate
    )
    assert np.allclose(log.rewards, rewards, atol=1e-5)
    assert log.returns[0] == np.float32(log.rewards.mean(dtype=float))
    assert log.returns[-1] == log.rewards[-1]
    assert log.part(3, 4).rewards.tolist() == log.rewards[3:7].tolist()
