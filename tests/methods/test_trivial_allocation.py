"""The baselines of allocations: rules as their names say, and a piece of the cell's own trajectory."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from promptfed.allocation.cell import make_trace, outcome
from promptfed.allocation.expert import as_preferred, expert, lowest
from promptfed.measures.base import build_measure
from promptfed.types import NO_PROMPT, Broadcast

from ..small_cells import method_of, setup_of, task_of


@pytest.fixture(scope="module")
def setting():
    task = task_of()
    return task, setup_of(task)


def scores_of(setting, name):
    task, setup = setting
    return method_of(name, setup).logits(NO_PROMPT, NO_PROMPT, task.base_classes, task.base_test)


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("preferred_allocation", lambda trace, cell: as_preferred(trace, cell.preferred)),
        ("lowest_allocation", lambda trace, cell: lowest(trace)),
        ("expert_allocation", lambda trace, cell: expert(trace, cell.preferred, cell.rate)),
    ],
)
def test_rules_earn_what_the_cell_says(setting, name, rule):
    scores = scores_of(setting, name)
    for row, item in enumerate(setting[0].base_test.items):
        trace = make_trace(item.cell, item.steps, item.seed)
        rewards, late = outcome(trace, rule(trace, item.cell), item.cell.preferred, item.cell.rate)
        assert 1 + scores[row, 2].item() == pytest.approx(rewards.mean(), abs=1e-6)
        assert -scores[row, 5].item() == pytest.approx(late.mean(), abs=1e-6)


def test_random_is_0_and_the_expert_100(setting):
    labels, score = setting[0].base_test.labels, build_measure("normalised")
    assert score.figure(scores_of(setting, "random_allocation"), labels) == pytest.approx(0, abs=1e-6)
    assert score.figure(scores_of(setting, "expert_allocation"), labels) == pytest.approx(100, abs=1e-6)
    assert not scores_of(setting, "preferred_allocation")[:, 1].any()


def test_a_trajectory_prompt_is_the_piece_of_the_episodes_own_cell(setting):
    task, setup = setting
    scores = scores_of(setting, "trajectory_prompt")
    for row, item in enumerate(task.base_test.items):
        rewards, _ = setup.policy.play([item], setup.policy.tokens([item.piece]))
        assert 1 + scores[row, 2].item() == pytest.approx(rewards.item(), abs=1e-5)
    assert not torch.allclose(scores[:, 2], scores_of(setting, "random_allocation")[:, 2])


def test_nothing_is_sent(setting):
    task, setup = setting
    update, personal = method_of("lowest_allocation", setup).train(Broadcast(1, NO_PROMPT), task.clients[0], NO_PROMPT)
    assert len(update.shared) == len(personal) == 0
    assert update.loss == pytest.approx(-np.mean(
        method_of("lowest_allocation", setup).logits(NO_PROMPT, NO_PROMPT, (), task.clients[0].val)[:, 2].numpy()
    ))  # fmt: skip
