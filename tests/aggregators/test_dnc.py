from __future__ import annotations

import numpy as np
import pytest
import torch

from promptfed.aggregators.base import build_aggregator
from promptfed.aggregators.dnc import spread_scores
from promptfed.prompt_state import PromptState


def test_scores_by_hand():
    # Centred: (-1, 0), (0, 0), (-2, 0), (3, 0); the direction is the first axis. In units of the largest deviation, 3.
    rows = torch.tensor([[1.0, 7.0], [2.0, 7.0], [0.0, 7.0], [5.0, 7.0]], dtype=torch.float64)
    np.testing.assert_allclose(spread_scores(rows) * 9, [1, 0, 4, 9], atol=1e-12)


def test_scores_follow_the_main_direction_of_covariance():
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(9, 5)) * [1, 1, 4, 1, 1]
    centered = rows - rows.mean(0)
    direction = np.linalg.eigh(centered.T @ centered)[1][:, -1]
    expected = (centered @ direction) ** 2 / np.abs(centered).max() ** 2
    np.testing.assert_allclose(spread_scores(torch.from_numpy(rows)), expected, atol=1e-10)


def test_those_furthest_out_are_dropped_and_the_rest_averaged_alike(state, merge):
    prompts = [state(0), state(1), state(2), state(3), state(1e6)]
    assert merge("dnc", state(0), prompts, [1, 9, 1, 1, 9]) == state(1.5)
    assert merge("dnc", state(0), [*prompts[:3], state(-900), state(1000)], malicious=2) == state(1)
    assert merge("dnc", state(0), prompts, malicious=0) == merge("uniform", state(0), prompts)


def test_colluders_are_dropped_together(crowd, merge):
    shared, prompts, _ = crowd
    bad = shared.map(lambda t: t + 0.5)
    found = merge("dnc", shared, [bad, bad, *prompts[2:]], malicious=2)
    torch.testing.assert_close(found["a"], torch.stack([p["a"] for p in prompts[2:]]).mean(0))


def test_the_filter_factor_drops_more(state, merge):
    prompts = [state(v) for v in (0, 1, 2, 3, -40, 50)]
    assert merge("dnc", state(0), prompts, malicious=1, filter=2) == state(1.5)


def test_of_few_updates_a_majority_stays(state, merge):
    assert merge("dnc", state(0), [state(0), state(4)], malicious=3) == state(2)
    assert merge("dnc", state(0), [state(0), state(1), state(9)], malicious=3) == state(0.5)


def test_with_few_coordinates_the_round_decides_where_it_looks(send):
    """Clients 0 to 3 each deviate in one value of four; who is dropped says which value was looked at."""
    rule = build_aggregator("dnc", {"coordinates": 1}).seeded(3)
    shared = PromptState({"ctx": torch.zeros(4)})
    updates = [send(i, PromptState({"ctx": torch.eye(4)[i]})) for i in range(4)]
    dropped, server = [], rule.init(shared)
    for _ in range(12):
        merged, server = rule.apply(shared, updates, server)
        dropped.append(merged["ctx"].argmin().item())
    assert set(dropped) == {0, 1, 2, 3}
    assert server["merges"].item() == 12


@pytest.mark.parametrize("iterations", [2, 20])
def test_an_update_must_pass_every_iteration_or_fail_least_often(iterations, send):
    rule = build_aggregator("dnc", {"coordinates": 1, "iterations": iterations})
    shared = PromptState({"ctx": torch.zeros(4)})
    updates = [send(i, PromptState({"ctx": torch.eye(4)[i]})) for i in range(4)]
    merged, _ = rule.apply(shared, updates, rule.init(shared))
    accepted = merged["ctx"].nonzero().flatten()
    assert 1 <= len(accepted) <= 3
    torch.testing.assert_close(merged["ctx"][accepted], torch.full((len(accepted),), 1 / len(accepted)))
