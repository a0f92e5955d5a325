from __future__ import annotations

import numpy as np
import pytest
import torch

from promptfed.aggregators.base import build_aggregator
from promptfed.aggregators.mean import Mean
from promptfed.blackbox.methods.fedbdpl import FedBDPL, FedBDPLConfig
from promptfed.engines.local import LocalEngine
from promptfed.engines.worker import ClientWorker
from promptfed.federation import Federation
from promptfed.local_only_wrapper import LocalOnlyWrapper
from promptfed.types import NO_PROMPT, Broadcast, Update


def make(setup, **options):
    return FedBDPL(FedBDPLConfig(**{"queries": 64, "batch_size": 4, "n_tokens": 3, "candidates": 20, **options}), setup)


def random_table(seed, length=3, count=20):
    rows = torch.from_numpy(np.random.default_rng(seed).dirichlet(np.full(count, 0.3), length))
    return rows.float()


def test_paper_s_table_takes_16_kb(black_setup):
    method = make(black_setup, n_tokens=20, candidates=200, blank=0)
    shared = method.init_shared()
    assert shared["table"].dtype == torch.float32
    assert shared["table"].numel() * 4 == 16_000
    assert torch.equal(shared["table"], torch.full((20, 200), 1 / 200))
    assert 16_000 < shared.nbytes < 16_300
    assert method.uploads(0, shared) == {"table": (20, 200)}


def test_the_first_table_favours_the_blank_so_that_no_prompt_is_deployed(black_setup):
    method = make(black_setup)
    table = method.init_shared()["table"]
    torch.testing.assert_close(table.sum(1), torch.ones(3))
    torch.testing.assert_close(table[:, 0], torch.full((3,), 0.1))
    assert method.candidate(method.init_shared(), NO_PROMPT).text == ""


@pytest.mark.parametrize("name", FedBDPL.aggregators)
def test_rows_stay_distributions_after_every_merge_that_is_allowed(name, black_setup):
    method = make(black_setup)
    shared = method.init_shared()
    updates = [Update(k, shared.__class__({"table": random_table(k)}), k + 1, 0.0, 0.0) for k in range(6)]
    server = method.server_side(build_aggregator(name, {}))
    merged, _ = server.apply(shared, updates, server.init(shared))
    assert (merged["table"] >= 0).all()
    torch.testing.assert_close(merged["table"].sum(1), torch.ones(3), atol=1e-6, rtol=0)
    assert torch.equal(merged["vocabulary"], shared["vocabulary"])
    assert merged["vocabulary"].dtype == torch.uint8


def test_the_mean_is_by_samples(black_setup):
    method = make(black_setup)
    shared = method.init_shared()
    tables = [random_table(k) for k in range(2)]
    updates = [
        Update(k, shared.__class__({"table": t}), n, 0.0, 0.0)
        for k, (t, n) in enumerate(zip(tables, (1, 3), strict=True))
    ]
    merged, _ = method.server_side(Mean(Mean.Config())).apply(shared, updates, NO_PROMPT)
    torch.testing.assert_close(merged["table"], 0.25 * tables[0] + 0.75 * tables[1])


def test_a_client_sends_its_table_alone_and_on_the_simplex(black_setup, text_task):
    method = make(black_setup)
    update, kept = method.train(Broadcast(1, method.init_shared()), text_task.clients[0], NO_PROMPT)
    assert set(update.shared) == {"table"}
    assert len(kept) == 0
    table = update.shared["table"]
    assert (table >= 0).all()
    torch.testing.assert_close(table.sum(1), torch.ones(3), atol=1e-6, rtol=0)


@pytest.mark.parametrize("active", [1, 2])
def test_fedone_asks_so_many_clients_a_round(active, black_setup, text_task):
    method = make(black_setup, active_clients=active)
    engine = LocalEngine(ClientWorker(method, text_task))
    federation = Federation(method, Mean(Mean.Config()), engine, [0, 1, 2])
    chosen = [federation.participants(round) for round in range(1, 30)]
    assert {len(clients) for clients in chosen} == {active}
    assert {client for clients in chosen for client in clients} == {0, 1, 2}
    assert chosen == [federation.participants(round) for round in range(1, 30)]
    state, replies = federation.run_round(federation.start())
    assert [reply.client for reply in replies] == chosen[0]
    assert state.round == 1


def test_a_prompt_drawn_twice_is_paid_for_once(black_setup, text_task, oracle):
    """With all of the probability on few tokens the same allowance makes more steps."""
    method = make(black_setup, n_tokens=1, candidates=2, samples=8, lr=0.01)
    method.train(Broadcast(1, method.init_shared()), text_task.clients[0], NO_PROMPT)
    # 64 queries are 16 prompts of 4 examples: 8 steps of at most 2 distinct prompts each, not 2 of 8
    assert 56 <= oracle.usage().oracle_queries <= 64
    assert oracle.usage().oracle_calls == 8


def test_local_only_clients_work_as_often_as_in_the_federation(black_setup):
    for method in (make(black_setup, active_clients=2), make(black_setup)):
        alone = LocalOnlyWrapper(method, Mean(Mean.Config()))
        for round in (1, 2):
            assert alone.participants(round, [0], [0, 1, 2]) == method.participants(round, [0], [0, 1, 2])
    assert len(make(black_setup, active_clients=2).participants(1, [0], [0, 1, 2])) == 2
    assert make(black_setup).participants(1, [0], [0, 1, 2]) == [0]
