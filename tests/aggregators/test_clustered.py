"""Clusters by direction: who ends where, and what each is sent."""

from __future__ import annotations

import pytest
import torch

from promptfed.aggregators.base import build_aggregator
from promptfed.aggregators.clustered import cluster_by_direction


@pytest.fixture
def apart(state, send):
    """From (1, 1): clients 0 and 2 go right by 1 and 3, clients 1 and 5 up by 1 and 2; client 0 has two samples."""
    return [send(0, state(2, 1), 2), send(1, state(1, 2)), send(2, state(4, 1)), send(5, state(1, 3))]


def test_directions_count_and_lengths_do_not():
    rows = torch.tensor([[1.0, 0.1], [0.0, 5.0], [100.0, 0.0], [0.1, 1.0]], dtype=torch.float64)
    assert cluster_by_direction(rows, 2, None) == [0, 1, 0, 1]
    assert cluster_by_direction(rows, 1, None) == [0, 0, 0, 0]
    assert cluster_by_direction(rows, 2, 0.5) == [0, 1, 0, 1]
    assert cluster_by_direction(rows, 2, 1.5) == [0, 0, 0, 0]
    assert cluster_by_direction(rows, 2, 1e-4) == [0, 1, 2, 3]


def test_those_who_changed_nothing_are_no_error():
    rows = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 0.0]], dtype=torch.float64)
    assert max(cluster_by_direction(rows, 2, None)) == 1


def test_clusters_get_the_means_of_their_own(apart, state):
    server = build_aggregator("clustered", {"clusters": 2, "warmup": 1})
    shared, memory = server.apply(state(1, 1), apart, server.init(state(1, 1)))
    assert shared == state(10 / 5, 8 / 5), "by samples, over all"
    right, up = state(8 / 3, 1), state(1, 2.5)
    for client, prompt in ((0, right), (2, right), (1, up), (5, up)):
        assert server.broadcast(shared, memory, client) == prompt
    assert server.broadcast(shared, memory, None) is shared
    assert server.broadcast(shared, memory, 3) is shared
    assert memory["members"].tolist() == [[0, 0], [1, 1], [2, 0], [5, 1]]


def test_one_prompt_for_all_while_warming_up(apart, state):
    server = build_aggregator("clustered", {"clusters": 2, "warmup": 3})
    shared, memory = state(1, 1), server.init(state(1, 1))
    for _ in range(2):
        shared, memory = server.apply(shared, apart, memory)
        assert server.broadcast(shared, memory, 0) is shared
    shared, memory = server.apply(shared, apart, memory)
    assert server.broadcast(shared, memory, 0) != shared


def test_afterwards_each_cluster_is_a_federation_of_its_own(apart, state, send):
    server = build_aggregator("clustered", {"clusters": 2, "warmup": 1})
    shared, memory = server.apply(state(1, 1), apart, server.init(state(1, 1)))
    shared, memory = server.apply(shared, [send(0, state(10, 0)), send(2, state(20, 0), 3)], memory)
    assert server.broadcast(shared, memory, 2) == state(17.5, 0)
    assert server.broadcast(shared, memory, 1) == state(1, 2.5), "nobody of it came"
    assert shared == state(17.5, 0)


def test_a_latecomer_joins_the_nearest_cluster(apart, state, send):
    server = build_aggregator("clustered", {"clusters": 2, "warmup": 1})
    shared, memory = server.apply(state(1, 1), apart, server.init(state(1, 1)))
    late = [send(7, shared + state(0.1, 9), 1), send(1, state(5, 5), 1)]
    after, memory = server.apply(shared, late, memory)
    assert memory["members"].tolist() == [[0, 0], [1, 1], [2, 0], [5, 1], [7, 1]]
    torch.testing.assert_close(
        server.broadcast(after, memory, 7)["ctx"], torch.tensor([(2.1 + 5) / 2, (1.6 + 9 + 5) / 2])
    )


def test_clustering_waits_until_there_are_enough(apart, state):
    server = build_aggregator("clustered", {"clusters": 3, "warmup": 1})
    shared, memory = server.apply(state(1, 1), apart[:2], server.init(state(1, 1)))
    assert server.broadcast(shared, memory, 0) is shared
    shared, memory = server.apply(state(1, 1), apart, memory)
    assert len(set(memory["members"][:, 1].tolist())) == 3


def test_a_threshold_finds_the_number_of_clusters(apart, state):
    server = build_aggregator("clustered", {"threshold": 0.5, "warmup": 1})
    _, memory = server.apply(state(1, 1), apart, server.init(state(1, 1)))
    assert memory["members"][:, 1].tolist() == [0, 1, 0, 1]
