from __future__ import annotations

import numpy as np
import pytest
import torch

from promptfed.aggregators.base import build_aggregator
from promptfed.aggregators.foolsgold import foolsgold_weights


def plain_weights(rows):
    """The algorithm of the paper as loops over lists."""
    n = len(rows)
    unit = [row / np.linalg.norm(row) if np.linalg.norm(row) else row for row in rows]
    cosines = [[0.0 if i == j else float(unit[i] @ unit[j]) for j in range(n)] for i in range(n)]
    highest = [max(row) for row in cosines]
    for i in range(n):
        for j in range(n):
            if i != j and highest[i] < highest[j]:
                cosines[i][j] *= highest[i] / highest[j]
    weights = [1 - max(row) for row in cosines]
    result = []
    for weight in weights:
        share = weight / max(weights)
        logit = np.inf if share == 1 else -np.inf if share == 0 else np.log(share / (1 - share)) + 0.5
        result.append(min(1, max(0, logit)))
    return result


@pytest.mark.parametrize("seed", range(5))
def test_the_same_as_plain_loops(seed):
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(7, 12)) + 2 * rng.normal(size=12)
    rows[5] = rows[6] + 0.01 * rng.normal(size=12)
    found = foolsgold_weights(torch.from_numpy(rows))
    np.testing.assert_allclose(found, plain_weights(rows), atol=1e-9)
    assert found[5] == found[6] == 0
    assert found.max() == 1


def test_pardon_by_hand():
    # Clients 1 and 2 are twins; client 0 is at cosine 0.6 to both, and not forgiven it would have a third of the weight
    # of one without likeness: v = (0.6, 1, 1), so cs_01 = 0.6 * 0.6 / 1 and a_0 = 1 - 0.36.
    rows = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.6, 0.8]], dtype=torch.float64)
    assert foolsgold_weights(rows).tolist() == pytest.approx([1, 0, 0])


def test_sybils_that_push_one_way_are_left_out(state, merge):
    sybils = [state(0, 0, 5, 0)] * 3
    honest = [state(1, 0, 0, 0), state(0, 1, 0, 0)]
    assert merge("foolsgold", state(0, 0, 0, 0), [*honest, *sybils]) == state(0.5, 0.5, 0, 0)


def test_histories_belong_to_client_numbers(state, send):
    """Client 4 sits a round out and another comes; each goes on with its own history."""
    rule = build_aggregator("foolsgold", {})
    shared, server = state(0, 0), rule.init(state(0, 0))
    for updates in ([send(2, state(1, 0)), send(4, state(0, 1))], [send(2, state(1, 0)), send(9, state(0, 3))]):
        _, server = rule.apply(shared, updates, server)
    assert server["clients"].tolist() == [2, 4, 9]
    assert server["history"].tolist() == [[2, 0], [0, 1], [0, 3]]
    merged, server = rule.apply(shared, [send(4, state(1, 0)), send(9, state(0, -2))], server)
    assert server["history"].tolist() == [[2, 0], [1, 1], [0, 1]]
    expected = plain_weights([np.array([1.0, 1.0]), np.array([0.0, 1.0])])
    assert expected == [1, 1]
    assert merged == state(0.5, -1), "equal v: likeness to one another alone sets neither apart"


def test_all_the_same_changes_nothing_and_one_alone_counts_whole(state, merge):
    assert merge("foolsgold", state(0, 0), [state(1, 2)] * 4) == state(0, 0)
    assert merge("foolsgold", state(0, 0), [state(1, 2)]) == state(1, 2)


def test_who_changed_nothing_resembles_nobody():
    rows = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    assert foolsgold_weights(rows).tolist() == [1, 1, 1]
