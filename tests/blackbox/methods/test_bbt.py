"""BBT alone and pooled, and its averaged baseline."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from promptfed.aggregators.mean import Mean
from promptfed.blackbox.methods.bbt import sample
from promptfed.blackbox.search.cma_update import Distribution
from promptfed.build_method import build_method
from promptfed.engines.local import LocalEngine
from promptfed.engines.worker import ClientWorker
from promptfed.federation import Federation
from promptfed.tasks.centralized import centralize
from promptfed.types import NO_PROMPT, Broadcast

OPTIONS = {"dim": 6, "n_tokens": 2, "queries": 100, "batch_size": 4}


def run(name, setup, task, rounds=3, **options):
    method = build_method(name, {**OPTIONS, **options}, setup)
    held = centralize(task) if method.is_centralized else task
    federation = Federation(method, Mean(Mean.Config()), LocalEngine(ClientWorker(method, held)), range(3))
    state, replies = federation.start(), []
    for _ in range(rounds):
        state, some = federation.run_round(state)
        replies += some
    return method, state, replies


def test_samples_have_the_distributions_moments():
    shape = np.array([[2.0, 0.6], [0.6, 1.0]])
    around = Distribution.start(np.array([1.0, -1.0]), 0.5, covariance=shape)
    points = np.stack(sample(around, 20000, np.random.default_rng(0)))
    assert np.allclose(points.mean(0), [1, -1], atol=0.03)
    assert np.allclose(np.cov(points.T), 0.25 * shape, atol=0.02)


def test_local_only_sends_nothing_and_every_client_has_its_own(black_setup, text_task):
    _, state, replies = run("bbt", black_setup, text_task)
    assert {reply.update.shared.nbytes for reply in replies} == {0}
    means = {tuple(state.personal[k]["mean"].tolist()) for k in range(3)}
    assert len(means) == 3


def test_the_search_goes_on_where_it_was(black_setup, text_task):
    """The state is the whole search: its generation counts on, and its covariance has moved."""
    _, state, _ = run("bbt", black_setup, text_task, rounds=2)
    assert state.personal[0]["generation"].item() == 2 * 5
    assert not torch.equal(state.personal[0]["covariance"], torch.eye(6))


def test_pooled_has_one_client_work_with_the_queries_and_data_of_all(black_setup, text_task, backend):
    method, state, replies = run("bbt", black_setup, text_task, pooled=True, rounds=1)
    assert [reply.client for reply in replies] == [0]
    assert replies[0].usage.oracle_queries == 3 * 100
    assert replies[0].update.samples == 12
    texts = {query.item.text for query in backend.asked}
    assert {"lava ice b0", "lava ice b1", "lava ice b2"} <= texts
    assert method.candidate(state.shared, NO_PROMPT).soft.shape == (2, 4)


def test_pooling_moves_no_test_data(text_task):
    together = centralize(text_task)
    assert [len(data.train) for data in together.clients] == [12, 4, 4]
    assert [data.test for data in together.clients] == [data.test for data in text_task.clients]


def test_who_never_took_part_has_the_start(black_setup):
    method = build_method("bbt", OPTIONS, black_setup)
    assert torch.equal(method.candidate(NO_PROMPT, NO_PROMPT).soft, method.projection.start)


def test_fedavg_bbt_averages_what_clients_send(black_setup, text_task):
    method = build_method("fedavg_bbt", OPTIONS, black_setup)
    start = Broadcast(1, method.init_shared())
    sent = [method.train(start, data, method.init_personal(data.client))[0].shared["z"] for data in text_task.clients]
    _, state, _ = run("fedavg_bbt", black_setup, text_task, rounds=1)
    assert torch.allclose(state.shared["z"], torch.stack(sent).mean(0), atol=1e-6)
    assert state.personal[1]["sigma"].item() != 1.0, "the step size goes on at the client"


@pytest.mark.parametrize(("name", "options"), [("bbt", {"pooled": True}), ("fedavg_bbt", {})])
def test_it_finds_a_warmer_prompt(black_setup, text_task, name, options):
    method, state, _ = run(name, black_setup, text_task, queries=200, **options)
    before, after = method.projection.start.mean(), method.candidate(state.shared, NO_PROMPT).soft.mean()
    assert after > before + 0.1
