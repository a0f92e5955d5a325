"""Cells: what a slot is worth, by hand; the same seed gives the same episode; what cannot be done is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest

from promptfed.allocation.cell import (
    FEATURES,
    Allocation,
    Cell,
    CellEnvironment,
    Trace,
    as_actions,
    as_allocation,
    make_cell,
    make_trace,
    outcome,
)

PREFERRED = np.array([[3, 2, 1], [2, 2, 2], [0, 0, 0], [1, 0, 3]])
CELL = Cell("one", PREFERRED, np.array([10.0, 10.0, 10.0, 10.0]), np.array([2.0, 2.0, 2.0]), 200.0)


def one_slot(snr: float = 10.0) -> Trace:
    tiles = np.array([[8, 8, 8], [24, 0, 0], [0, 24, 0], [10, 10, 4]])
    return Trace(tiles, np.full(4, snr), np.zeros(4))


def test_a_slot_is_worth_what_the_formula_says() -> None:
    done = Allocation(np.array([[2, 2, 0], [0, 0, 0], [0, 0, 0], [1, 1, 1]]), np.array([0.4, 0.2, 0.2, 0.2]))
    reward, late = outcome(one_slot(), done, PREFERRED, 200.0)
    wide = math.log2(1 + 10)
    resolutions = (0.25, 0.5, 1.0, 2.0)
    worth, too_late = [], []
    for user in range(4):
        chosen, wished = done.index[user], PREFERRED[user]
        bits = sum(one_slot().tiles[user][k] * resolutions[chosen[k]] for k in range(3))
        latency = bits / (80 * done.share[user] * wide) + bits / 200
        quality = sum(
            w * min(math.log(1 + resolutions[c]) / math.log(1 + resolutions[p]), 1)
            for w, c, p in zip((0.6, 0.3, 0.1), chosen, wished, strict=True)
        )
        away = sum(abs(int(c) - int(p)) for c, p in zip(chosen, wished, strict=True)) / 3
        worth.append(quality - 0.05 * away - min(1.0, max(0.0, latency - 0.2) / 0.2))
        too_late.append(latency > 0.2)
    assert reward == pytest.approx(sum(worth) / 4)
    assert late == sum(too_late) / 4
    assert 0 < late < 1  # user 0 is late, and others are not


def test_a_slot_that_never_comes_costs_one_and_no_more() -> None:
    done = Allocation(np.full((4, 3), 3), np.array([1.0, 0.0, 0.0, 0.0]))
    worst, late = outcome(one_slot(-40.0), done, PREFERRED, 1.0)
    assert late == 1
    assert -1.2 <= worst <= 0


def test_the_same_seed_gives_the_same_episode_and_another_does_not() -> None:
    first, again, other = (make_trace(CELL, 50, seed) for seed in (3, 3, 4))
    assert np.array_equal(first.observations, again.observations)
    assert not np.array_equal(first.observations, other.observations)
    assert (first.tiles.sum(-1) == 24).all()


def test_the_radio_forgets_a_tenth_in_a_slot() -> None:
    change = make_trace(CELL, 40000, 1).change
    assert change.std() == pytest.approx(1, abs=0.05)
    together = (change[1:] * change[:-1]).mean() / (change**2).mean()
    assert together == pytest.approx(0.9, abs=0.02)


def test_an_observation_tells_nothing_of_the_cell_but_what_comes() -> None:
    """Neither what users prefer, nor their mean SNR, nor the server's speed is in it."""
    other = Cell("two", 3 - PREFERRED, CELL.snr + 7, CELL.gaze, 100.0)
    assert np.array_equal(make_trace(CELL, 20, 5).observations, make_trace(other, 20, 5).observations)
    assert make_trace(CELL, 20, 5).observations.shape == (20, FEATURES)


def test_it_plays_as_environments_of_gymnasium_do() -> None:
    game = CellEnvironment(CELL, steps=3)
    seen, information = game.reset(seed=9)
    assert information == {}
    trace = make_trace(CELL, 3, 9)
    assert np.array_equal(seen, trace.observations[0])
    action = as_actions(Allocation(PREFERRED, np.full(4, 0.25)))
    ends = []
    for step in range(3):
        seen, reward, terminated, truncated, information = game.step(action)
        expected, late = outcome(trace[step], Allocation(PREFERRED, np.full(4, 0.25)), PREFERRED, 200.0)
        assert reward == pytest.approx(float(expected))
        assert information == {"late": pytest.approx(float(late))}
        assert not terminated
        ends.append(truncated)
    assert ends == [False, False, True]
    with pytest.raises(ValueError, match=r"call reset\(\) first"):
        game.step(action)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ((0, 4.0), "indices of resolutions, 0 to 3"),
        ((0, 0.5), "indices of resolutions, 0 to 3"),
        ((3, float("nan")), "indices of resolutions, 0 to 3"),
        ((12, 0.9), "shares of the bandwidth, with sum 1"),
        ((13, -0.25), "shares of the bandwidth, with sum 1"),
    ],
)
def test_an_action_that_cannot_be_is_refused(change: tuple[int, float], words: str) -> None:
    action = np.concatenate([np.zeros(12), np.full(4, 0.25)])
    action[change[0]] = change[1]
    with pytest.raises(ValueError, match=words):
        as_allocation(action)


def test_actions_and_allocations_are_the_same_thing() -> None:
    cell = make_cell("any", np.random.default_rng(0))
    done = Allocation(cell.preferred, np.array([0.1, 0.2, 0.3, 0.4]))
    again = as_allocation(as_actions(done))
    assert np.array_equal(again.index, done.index)
    assert np.allclose(again.share, done.share)
    with pytest.raises(ValueError, match="an action has 16 numbers, and this has 3"):
        as_allocation(np.zeros(3))
