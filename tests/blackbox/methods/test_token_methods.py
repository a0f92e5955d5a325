"""What holds for every method of discrete prompts."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from promptfed.aggregators.mean import Mean
from promptfed.build_method import build_method
from promptfed.engines.local import LocalEngine
from promptfed.engines.worker import ClientWorker
from promptfed.errors import TrainingError
from promptfed.federation import Federation
from promptfed.types import NO_PROMPT, Broadcast

NAMES = ("fedbdpl", "fedng", "feddtpt", "pfl_gradfree")


WORDS = ["ice", "snow", "fire", "lava", "the", "mild"]


@pytest.fixture
def make(black_setup):
    def build(name, setup=black_setup, **options):
        own = {"queries": 96, "batch_size": 4, "n_tokens": 3, **OWN[name], **options}
        return build_method(name, own, setup)

    return build


OWN = {
    "fedbdpl": {"vocabulary": WORDS, "candidates": 9, "samples": 8, "lr": 0.2},
    "fedng": {"vocabulary": WORDS, "candidates": 9, "finalists": 3, "queries": 48},
    "feddtpt": {"proposals": 6, "embedder": "hashing"},
    "pfl_gradfree": {"vocabulary": WORDS, "candidates": 9, "embedder": "hashing"},
}


def run(method, task, rounds, clients=None, dropout=0.0):
    clients = [data.client for data in task.clients] if clients is None else clients
    engine = LocalEngine(ClientWorker(method, task, dropout))
    federation = Federation(method, Mean(Mean.Config()), engine, clients)
    state = federation.start()
    for _ in range(rounds):
        state, _ = federation.run_round(state)
    return federation, state


def loss_of(method, prompt, task):
    """Mean cross-entropy over the clients' training texts."""
    found = []
    for data in task.clients:
        scores = method.logits(prompt.shared, prompt.personal, task.base_classes, data.train)
        found.append(torch.nn.functional.cross_entropy(scores, data.train.labels).item())
    return np.mean(found)


@pytest.mark.parametrize("name", NAMES)
def test_a_few_rounds_find_a_warmer_prompt(name, make, text_task, black_setup):
    rounds = 3 if name == "fedng" else 6
    method = make(name, black_setup.agreeing(rounds=rounds))
    federation, state = run(method, text_task, rounds)
    prompts = federation.prompts(state)
    before = loss_of(method, federation.prompt(federation.start(), None), text_task)
    after = np.mean([loss_of(method, prompt, text_task) for prompt in prompts.values()])
    assert after < before - 0.1


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("queries", [16, 41, 96])
def test_the_allowance_is_used_and_never_exceeded(name, queries, make, text_task, oracle):
    method = make(name, queries=queries)
    server = method.server_side(Mean(Mean.Config()))
    shared = method.init_shared()
    memory = server.init(shared)
    for round in (1, 2, 3):
        before = oracle.usage().oracle_queries
        sent = Broadcast(round, server.broadcast(shared, memory, 0))
        update, _ = method.train(sent, text_task.clients[0], method.init_personal(0))
        assert oracle.usage().oracle_queries - before <= queries
        if round == 1 and queries == 96:
            assert oracle.usage().oracle_queries - before > 40
        shared, memory = server.apply(shared, [update], memory)


@pytest.mark.parametrize("name", NAMES)
def test_two_runs_are_the_same_to_the_bit(name, make, text_task):
    states = [run(make(name), text_task, 2)[1] for _ in range(2)]
    assert states[0].shared == states[1].shared
    assert states[0].server == states[1].server
    assert states[0].personal == states[1].personal


@pytest.mark.parametrize("name", NAMES)
def test_a_run_in_two_parts_is_the_same_run(name, make, text_task):
    _, whole = run(make(name), text_task, 3)
    _, part = run(make(name), text_task, 1)
    method = make(name)
    federation = Federation(method, Mean(Mean.Config()), LocalEngine(ClientWorker(method, text_task)), [0, 1, 2])
    for _ in range(2):
        part, _ = federation.run_round(part)
    assert part.shared == whole.shared
    assert part.personal == whole.personal


@pytest.mark.parametrize("name", NAMES)
def test_rounds_and_clients_draw_apart(name, make, text_task, monkeypatch):
    seen = []
    method = make(name)
    search = method.search

    def watch(broadcast, data, personal, desk):
        seen.append(desk.stream.random())
        return search(broadcast, data, personal, desk)

    monkeypatch.setattr(method, "search", watch)
    run(method, text_task, 2)
    assert len(set(seen)) == 6


@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_clients_does_not_matter(name, make, text_task):
    method = make(name)
    server = method.server_side(Mean(Mean.Config()))
    shared = method.init_shared()
    memory = server.init(shared)
    updates = [method.train(Broadcast(1, shared), d, method.init_personal(d.client))[0] for d in text_task.clients]
    one, two = (server.apply(shared, order, memory) for order in (updates, updates[::-1]))
    assert one[1] == two[1]
    assert list(one[0]) == list(two[0])
    for key in one[0]:
        torch.testing.assert_close(one[0][key], two[0][key], rtol=0, atol=1e-7)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("clients", [[1], [0, 2]])
def test_one_or_two_clients_are_enough(name, clients, make, text_task):
    federation, state = run(make(name), text_task, 2, clients)
    prompt = federation.prompt(state, clients[0])
    assert (
        federation.method.logits(prompt.shared, prompt.personal, text_task.base_classes, text_task.base_test)
        .isfinite()
        .all()
    )


@pytest.mark.parametrize("name", NAMES)
def test_dropouts_cost_their_own_update_only(name, make, text_task):
    federation, state = run(make(name), text_task, 3, dropout=0.5)
    assert state.round == 3
    assert federation.method.candidate(federation.prompt(state, None).shared, NO_PROMPT).soft is None


@pytest.mark.parametrize("name", NAMES)
def test_numpy_s_global_generator_is_left_alone(name, make, text_task):
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    run(make(name), text_task, 1)
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002


@pytest.mark.parametrize("name", ["fedbdpl", "fedng", "pfl_gradfree"])
def test_another_vocabulary_is_noticed(name, make, text_task):
    shared = make(name, candidates=8).init_shared()
    with pytest.raises(TrainingError, match="vocabulary"):
        make(name).train(Broadcast(1, shared), text_task.clients[0], make(name).init_personal(0))
