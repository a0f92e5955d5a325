"""Task allocation: who holds which episodes, what comes from the seed, and what is refused at the start."""

from __future__ import annotations

import numpy as np
import pytest

from promptfed.config import build_config
from promptfed.errors import ConfigError, PromptFedError
from promptfed.tasks import TASKS
from promptfed.tasks.allocation import best_piece

from ..small_cells import SMALL, task_of


def test_the_same_seed_gives_the_same_episodes_bit_by_bit() -> None:
    one, again, other = task_of(seed=3), task_of(seed=3), task_of(seed=4)
    names = [[item.content_id() for data in task.clients for item in (*data.train.items, *data.test.items)]
             for task in (one, again, other)]  # fmt: skip
    assert names[0] == names[1]
    assert not set(names[0]) & set(names[2])
    for left, right in zip(one.clients[0].train.items, again.clients[0].train.items, strict=True):
        assert np.array_equal(left.log.actions, right.log.actions)
        assert np.array_equal(left.log.rewards, right.log.rewards)


def test_each_cell_learns_from_its_own_log_and_plays_other_episodes() -> None:
    task = task_of(clients=3, held_out=2)
    cells = [{item.cell.name for item in (*data.train.items, *data.val.items, *data.test.items)}
             for data in task.clients]  # fmt: skip
    assert cells == [{"cell 0"}, {"cell 1"}, {"cell 2"}]
    assert {item.cell.name for item in task.new_test.items} == {"cell 3", "cell 4"}
    for data in task.clients:
        seeds = [item.seed for item in (*data.train.items, *data.val.items, *data.test.items)]
        assert len(set(seeds)) == len(seeds) == 6 + 1 + 2
        assert all(item.log is not None for item in data.train.items)
        assert all(item.log is None for item in (*data.val.items, *data.test.items))
    assert len(task.base_test) == 6


def test_a_cell_that_takes_part_is_the_same_whoever_else_does() -> None:
    few, many = task_of(clients=2), task_of(clients=4)
    assert few.clients[1].train.items[0].content_id() == many.clients[1].train.items[0].content_id()


def test_cells_of_no_spread_want_the_same() -> None:
    alike = [data.train.items[0].cell for data in task_of(clients=4, spread=0.0).clients]
    assert all(np.array_equal(cell.preferred, alike[0].preferred) for cell in alike)
    assert all(np.array_equal(cell.snr, alike[0].snr) and cell.rate == alike[0].rate for cell in alike)
    unlike = [data.train.items[0].cell for data in task_of(clients=4, spread=1.0).clients]
    assert not np.array_equal(unlike[0].preferred, unlike[1].preferred)


def test_the_piece_is_the_best_that_was_logged_in_the_cell() -> None:
    data = task_of(clients=2).clients[0]
    logs = [item.log for item in data.train.items]
    sums = [log.rewards[first : first + 5].sum() for log in logs for first in range(len(log.rewards) - 4)]
    piece = data.test.items[0].piece
    assert piece.rewards.sum() == pytest.approx(max(sums), abs=1e-5)
    assert best_piece(logs).rewards.tolist() == piece.rewards.tolist()
    assert len(piece.rewards) == 5


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"shots": 4}, "--set task.episodes=N"),
        ({"clients": 1}, "needs two at least"),
        ({"data": "icons"}, "cells"),
        ({"task_options": {"steps": 4}}, "steps"),
        ({"task_options": {"spread": 2}}, "spread"),
        ({"task_options": {"nothing": 2}}, "nothing"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(config, words) -> None:
    values = {"task": "allocation", "data": "cells", "task_options": SMALL, **config}
    with pytest.raises(PromptFedError, match=words) as error:
        TASKS["allocation"].build(build_config(values))
    assert isinstance(error.value, ConfigError)
    assert "\n" not in str(error.value)
