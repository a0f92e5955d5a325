from __future__ import annotations

import pytest
import torch

from promptfed.methods.fedprox import FedProx, FedProxConfig
from promptfed.methods.promptfl import PromptFL, PromptFLConfig
from promptfed.types import NO_PROMPT, Broadcast

PLAIN = {"optimizer": "sgd", "momentum": 0, "lr": 0.2, "schedule": "constant", "batch_size": 100}


def moved(method, data):
    shared = method.init_shared()
    update, personal = method.train(Broadcast(1, shared), data, NO_PROMPT)
    assert len(personal) == 0
    return update.shared - shared


def test_the_second_step_is_pulled_back_by_mu_times_the_distance(setup, toy_task):
    """The first step starts at the received context, where the pull is nil; the second feels it."""
    data = toy_task.clients[2]
    once = moved(PromptFL(PromptFLConfig(**PLAIN, local_epochs=1), setup), data)
    twice = moved(PromptFL(PromptFLConfig(**PLAIN, local_epochs=2), setup), data)
    assert moved(FedProx(FedProxConfig(**PLAIN, local_epochs=1, mu=0.7), setup), data) == once
    prox = moved(FedProx(FedProxConfig(**PLAIN, local_epochs=2, mu=0.7), setup), data)
    assert torch.allclose(prox["ctx"], (twice - once * (0.2 * 0.7))["ctx"], atol=1e-6)


def test_mu_0_is_promptfl(setup, toy_task):
    data = toy_task.clients[1]
    assert moved(FedProx(FedProxConfig(mu=0), setup), data) == moved(PromptFL(PromptFLConfig(), setup), data)


def test_a_stronger_pull_stays_nearer(setup, toy_task):
    norms = [
        moved(FedProx(FedProxConfig(**PLAIN, local_epochs=8, mu=mu), setup), toy_task.clients[2]).norm()
        for mu in (0.0, 0.5, 3.0)
    ]
    assert norms == sorted(norms, reverse=True)
    assert norms[2] < 0.9 * norms[0]


def test_clients_side_by_side_end_where_each_would_alone(setup, toy_task):
    method = FedProx(FedProxConfig(), setup)
    jobs = [(Broadcast(2, method.init_shared()), data, NO_PROMPT) for data in toy_task.clients[1:]]
    for (update, _), job in zip(method.train_many(jobs), jobs, strict=True):
        alone, _ = method.train(*job)
        assert torch.allclose(update.shared["ctx"], alone.shared["ctx"], atol=1e-5)
        assert update.loss == pytest.approx(alone.loss, abs=1e-5)
