"""FedAMP: the mixtures by hand, what is remembered, and who is sent what."""

from __future__ import annotations

import math

import pytest
import torch

from promptfed.aggregators.base import build_aggregator


@pytest.fixture
def three(state, send):
    """Prompts 0, 1 and 5 of clients 0, 1 and 2."""
    return [send(0, state(0), 2), send(1, state(1), 1), send(2, state(5), 1)]


def test_mixtures_by_distance_by_hand(three, state):
    server = build_aggregator("fedamp", {"alpha": 0.6, "sigma": 0.5})
    shared, memory = server.apply(state(9), three, server.init(state(9)))
    width = 0.5 * (1 + 25 + 16) / 3  # sigma times the mean squared distance of two clients
    near, far = 0.2 * math.exp(-1 / width), 0.2 * math.exp(-25 / width)
    assert server.broadcast(shared, memory, 0)["ctx"].item() == pytest.approx(near * 1 + far * 5)
    other = 0.2 * math.exp(-16 / width)
    assert server.broadcast(shared, memory, 1)["ctx"].item() == pytest.approx(1 - near - other + other * 5)


def test_mixtures_by_cosine_by_hand(state, send):
    server = build_aggregator("fedamp", {"similarity": "cosine", "sigma": 2.0, "self_weight": 0.25})
    updates = [send(0, state(1, 0)), send(1, state(0, 3)), send(2, state(2, 2))]
    shared, memory = server.apply(state(0, 0), updates, server.init(state(0, 0)))
    a, b = 1.0, math.exp(2 * 2**-0.5)  # cosines 0 and 1 / sqrt(2)
    a, b = 0.75 * a / (a + b), 0.75 * b / (a + b)
    torch.testing.assert_close(
        server.broadcast(shared, memory, 0)["ctx"], torch.tensor([0.25 + 2 * b, 3 * a + 2 * b]), rtol=1e-5, atol=1e-6
    )


def test_cosine_mixing_gives_everybody_an_equal_say_by_default(three, state):
    server = build_aggregator("fedamp", {"similarity": "cosine", "sigma": 1e-9})
    shared, memory = server.apply(state(9), three, server.init(state(9)))
    assert server.broadcast(shared, memory, 1)["ctx"].item() == pytest.approx(2)


def test_a_stranger_is_sent_the_mean_by_samples(three, state):
    server = build_aggregator("fedamp", {})
    shared, memory = server.apply(state(9), three, server.init(state(9)))
    assert shared == state(1.5)
    assert server.broadcast(shared, memory, None) is shared
    assert server.broadcast(shared, memory, 7) is shared


def test_before_round_1_everybody_is_sent_the_start(state):
    server = build_aggregator("fedamp", {})
    start = state(1, 2)
    assert server.broadcast(start, server.init(start), 0) is start


def test_who_sits_out_is_remembered(three, state, send):
    server = build_aggregator("fedamp", {"alpha": 1, "sigma": 1e9})
    shared, memory = server.apply(state(9), three, server.init(state(9)))
    shared, memory = server.apply(shared, [send(0, state(3))], memory)
    assert shared == state(3), "the mean over those who came"
    for client in range(3):  # so wide that all are alike: (3 + 1 + 5) / 3
        assert server.broadcast(shared, memory, client)["ctx"].item() == pytest.approx(3, abs=1e-4)
    assert set(memory) == {"client/0/ctx", "client/1/ctx", "client/2/ctx"}


@pytest.mark.parametrize("similarity", ["distance", "cosine"])
def test_mixtures_stay_between_the_prompts(similarity, crowd, send):
    shared, prompts, _ = crowd
    server = build_aggregator("fedamp", {"similarity": similarity})
    shared, memory = server.apply(shared, [send(i, p) for i, p in enumerate(prompts)], server.init(shared))
    lowest = torch.stack([p["a"] for p in prompts]).amin(0)
    highest = torch.stack([p["a"] for p in prompts]).amax(0)
    for client in range(7):
        mixed = server.broadcast(shared, memory, client)["a"]
        assert bool(((mixed >= lowest - 1e-6) & (mixed <= highest + 1e-6)).all())


def test_the_unit_of_the_prompt_does_not_matter(three, state, send):
    server = build_aggregator("fedamp", {})
    _, memory = server.apply(state(0), three, server.init(state(0)))
    _, large = server.apply(state(0), [send(u.client, 1000 * u.shared) for u in three], server.init(state(0)))
    assert server.broadcast(state(0), large, 0)["ctx"].item() == pytest.approx(
        1000 * server.broadcast(state(0), memory, 0)["ctx"].item(), rel=1e-5
    )


def test_those_alike_end_closer_to_each_other_than_to_the_rest(state, send):
    server = build_aggregator("fedamp", {"sigma": 0.3})
    updates = [send(i, state(v)) for i, v in enumerate((0, 0.1, 10, 10.1))]
    shared, memory = server.apply(state(0), updates, server.init(state(0)))
    found = [server.broadcast(shared, memory, client)["ctx"].item() for client in range(4)]
    assert abs(found[0] - found[1]) < 0.1 < 5 < abs(found[0] - found[2])
