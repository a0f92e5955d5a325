"""Reliability: the weights of three clients by hand, who scores whom, and what a lie is worth."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch

from promptfed.aggregators.base import build_aggregator, deployed
from promptfed.aggregators.reliability import above_chance, mixture, peers_of
from promptfed.prompt_state import PromptState
from promptfed.types import Update

VECTORS = [(1.0, 0.0), (3.0, 4.0), (1.6, 1.2)]
"""Cosines: 0 and 1 0.6, 0 and 2 0.8, 1 and 2 0.96."""


def sent(values, accuracies, scores=()):
    states = [{"ctx": torch.tensor(v, dtype=torch.float64)} for v in values]
    for state, some in zip(states, scores, strict=False):
        state["peer_scores"] = torch.tensor(some)
    return [Update(k, PromptState(s), 1, 0.0, a) for k, (s, a) in enumerate(zip(states, accuracies, strict=True))]


def after(rounds, **options):
    rule = build_aggregator("reliability", options)
    shared = PromptState({"ctx": torch.zeros(2)})
    server = rule.init(shared)
    for updates in rounds:
        shared, server = rule.apply(shared, updates, server)
    return rule, shared, server


def test_the_weights_of_three_clients_by_hand():
    rule, shared, server = after([sent(VECTORS, (0.5, 0.8, 0.4))])
    rows = torch.tensor(VECTORS, dtype=torch.float64)
    accuracies = torch.tensor([0.5, 0.8, 0.4])
    expected = [(0, 0.48 / 0.8, 0.32 / 0.8), (0.3 / 0.684, 0, 0.384 / 0.684), (0.4 / 1.168, 0.768 / 1.168, 0)]
    for client, eta in enumerate(expected):
        assert mixture(rows, accuracies, client).tolist() == pytest.approx(eta)
        mixed = sum(e * row for e, row in zip(eta, rows, strict=True))
        torch.testing.assert_close(rule.broadcast(shared, server, client)["ctx"].double(), mixed, atol=1e-6, rtol=0)
    assert rule.broadcast(shared, server, 0)["ctx"].tolist() == pytest.approx([2.44, 2.88])


def test_somebody_new_is_sent_the_mean_by_accuracy():
    rule, shared, server = after([sent(VECTORS, (0.5, 0.8, 0.4))])
    assert rule.broadcast(shared, server, None) is rule.broadcast(shared, server, 9) is shared
    assert shared["ctx"].tolist() == pytest.approx([(0.5 + 0.8 * 3 + 0.4 * 1.6) / 1.7, (0.8 * 4 + 0.4 * 1.2) / 1.7])


def test_accuracies_are_taken_above_chance():
    assert above_chance(0.5, 0.5) == above_chance(0.1, 0.5) == above_chance(math.nan, 0.0) == 0
    assert above_chance(1.0, 0.3) == 1
    rule, shared, server = after([sent(VECTORS, (0.9, 0.75, 0.5))], chance=0.5)
    assert rule.broadcast(shared, server, 0)["ctx"].tolist() == [3, 4], "client 2 only guesses"


@pytest.mark.parametrize(
    ("values", "accuracies"),
    [
        ([(1.0, 0.0), (-1.0, 0.0), (0.0, 2.0)], (0.9, 0.9, 0.9)),
        (VECTORS, (0.9, 0.0, 0.0)),
        ([(0.0, 0.0)] * 3, (1, 1, 1)),
    ],
)
def test_where_no_other_has_a_weight_a_client_keeps_its_own(values, accuracies):
    rule, shared, server = after([sent(values, accuracies)])
    assert rule.broadcast(shared, server, 0)["ctx"].tolist() == pytest.approx(values[0])


def test_without_reliability_likeness_alone_decides():
    rule, shared, server = after([sent(VECTORS, (0.0, 0.9, math.nan))], reliability="none")
    assert rule.broadcast(shared, server, 0)["ctx"].tolist() == pytest.approx(
        [(0.6 * 3 + 0.8 * 1.6) / 1.4, (0.6 * 4 + 0.8 * 1.2) / 1.4]
    )


@pytest.mark.parametrize("count", [2, 3, 4, 5, 8])
def test_every_prompt_is_scored_by_as_many_and_after_a_while_by_all(count):
    clients, pairs = list(range(10, 10 + count)), set()
    for rounds in range(count):
        chosen = {client: peers_of(clients, client, rounds) for client in clients}
        assert all(client not in some and len(some) == min(2, count - 1) for client, some in chosen.items())
        assert set(Counter(peer for some in chosen.values() for peer in some).values()) == {min(2, count - 1)}
        pairs |= {(client, peer) for client, some in chosen.items() for peer in some}
    assert len(pairs) == count * (count - 1)


def test_who_is_alone_scores_nobody():
    assert peers_of([4], 4, 3) == []


def test_cross_sends_two_others_prompts_and_nobody_deploys_them():
    rule, shared, server = after([sent(VECTORS, (0.5, 0.8, 0.4))], reliability="cross")
    first = rule.broadcast(shared, server, 0)
    assert set(first) == {"ctx", "peer/0/ctx", "peer/1/ctx"}
    assert sorted(first[f"peer/{k}/ctx"].tolist() for k in range(2)) == [
        pytest.approx([1.6, 1.2]),
        pytest.approx([3.0, 4.0]),
    ]
    assert set(deployed(first)) == {"ctx"}


def test_cross_believes_the_median_of_what_others_measured():
    clients, values = list(range(4)), [(1.0, 0.0), (1.0, 0.1), (1.0, 0.2), (1.0, -0.1)]
    rounds, truth = [sent(values, (1.0,) * 4)], {0: 0.5, 1: 0.6, 2: 0.0, 3: 0.7}
    for number in (1, 2):  # client 3 says that client 2, which only guesses, is perfect, and the others are not
        scores = [
            [1.0 if c == 3 and peer == 2 else 0.0 if c == 3 else truth[peer] for peer in peers_of(clients, c, number)]
            for c in clients
        ]
        rounds.append(sent(values, (1.0,) * 4, scores))
    rule, _, server = after(rounds, reliability="cross")
    assert server["rounds"].item() == 3
    known = rule.reliabilities(server, clients)
    assert known == pytest.approx({0: 0.5, 1: 0.6, 2: 0.0, 3: 0.7}, abs=1e-6)


def test_until_somebody_is_scored_all_count_alike():
    rule, shared, server = after([sent(VECTORS, (1.0, 0.0, 0.0))], reliability="cross")
    assert rule.reliabilities(server, [0, 1, 2]) == {0: 1.0, 1: 1.0, 2: 1.0}
    assert deployed(rule.broadcast(shared, server, 0))["ctx"].tolist() == pytest.approx([3.08 / 1.4, 3.36 / 1.4])


def test_a_liar_takes_the_mixture_that_is_reported_and_not_the_one_that_is_measured():
    honest, liar = (1.0, 0.2), (1.0, -0.3)
    values = [honest, honest, honest, liar]
    first = sent(values, (0.6, 0.6, 0.6, 1.0))
    clients = list(range(4))
    scores = [[0.0 if peer == 3 else 0.6 for peer in peers_of(clients, c, 1)] for c in clients]
    second = sent(values, (0.6, 0.6, 0.6, 1.0), scores)
    pulled = {}
    for how in ("reported", "cross"):
        rule, shared, server = after([first, second], reliability=how)
        pulled[how] = deployed(rule.broadcast(shared, server, 0))["ctx"][1].item()
    assert pulled["cross"] == pytest.approx(0.2)
    assert pulled["reported"] < 0.03
