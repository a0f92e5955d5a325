from __future__ import annotations

import pytest
import torch

from promptfed.class_sample import EVERY_CLASS
from promptfed.local_training import LocalObjective, LocalTraining, train_clients
from promptfed.prompt_state import PromptState
from promptfed.prompts.proximal import with_proximal_term


def problem() -> LocalObjective:
    """Minimise ``-a - 2 b``, whose gradient is the same everywhere."""

    def loss(parameters, features, rows):
        return -(parameters["a"] + 2 * parameters["b"]).sum(), torch.zeros(len(rows), 2)

    start = PromptState({"a": torch.tensor([3.0]), "b": torch.tensor([-1.0])})
    return LocalObjective(start, torch.zeros(1, dtype=torch.int64), loss)


def test_the_pull_is_half_the_strength_times_the_squared_distance_from_the_start():
    parameters = {"a": torch.tensor([5.0]), "b": torch.tensor([0.0])}
    [pull] = with_proximal_term(problem(), 0.4).penalties
    assert pull(parameters, [], EVERY_CLASS).item() == pytest.approx(0.2 * (2.0**2 + 1.0**2))


def test_the_pull_is_a_part_of_the_loss_that_is_reported(setup):
    config = LocalTraining(optimizer="sgd", momentum=0, lr=1.0, schedule="constant", local_epochs=2)
    [(_, fit)] = train_clients([(0, with_proximal_term(problem(), 0.5))], config, setup, round=1)
    first, second = -(3 - 2), -(4 + 2) + 0.25 * (1.0**2 + 2.0**2)
    assert fit.loss == pytest.approx((first + second) / 2)


def test_minimum_lies_where_pull_and_gradient_balance(setup):
    config = LocalTraining(optimizer="sgd", momentum=0, lr=0.5, schedule="constant", local_epochs=60)
    [(found, _)] = train_clients([(0, with_proximal_term(problem(), 0.5))], config, setup, round=1)
    assert found["a"].item() == pytest.approx(3.0 + 1 / 0.5, abs=1e-4)
    assert found["b"].item() == pytest.approx(-1.0 + 2 / 0.5, abs=1e-4)


def test_no_strength_is_the_problem_itself():
    given = problem()
    assert with_proximal_term(given, 0.0) is given
