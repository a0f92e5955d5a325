from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from promptfed.aggregators.krum import krum_scores


def test_scores_by_hand():
    # f = 1 of 5: the sum over 5 - 1 - 2 = 2 nearest fellows
    rows = torch.tensor([[0.0], [1.0], [2.0], [4.0], [100.0]], dtype=torch.float64)
    assert krum_scores(rows, 1).tolist() == [1 + 4, 1 + 1, 1 + 4, 4 + 9, 96**2 + 98**2]


def test_krum_picks_one_update_unchanged(state, merge):
    prompts = [state(v, -v) for v in (0, 1, 2, 4, 1e6)]
    assert merge("krum", state(0, 0), prompts, [9, 1, 1, 1, 9], byzantine=1) == state(1, -1)


def test_multi_krum_averages_the_best_alike(state, merge):
    prompts = [state(v) for v in (0, 1, 2, 4, 1e6)]
    assert merge("multi_krum", state(0), prompts, [9, 1, 1, 1, 9], byzantine=1) == state(1.75), "all but one"
    assert merge("multi_krum", state(0), prompts, byzantine=1, keep=3) == state(1)
    assert merge("multi_krum", state(0), prompts, byzantine=1, keep=1) == merge("krum", state(0), prompts)


@pytest.mark.parametrize("byzantine", [0, 1, 2])
def test_the_same_as_a_plain_loop(byzantine, crowd, merge):
    shared, prompts, _ = crowd
    flat = [np.concatenate([p[name].double().numpy().ravel() for name in ("a", "b")]) for p in prompts]
    scores = []
    for i in range(7):
        near = sorted(((flat[i] - flat[j]) ** 2).sum() for j in range(7) if j != i)
        scores.append(sum(itertools.islice(near, 7 - byzantine - 2)))
    best = int(np.argmin(scores))
    assert merge("krum", shared, prompts, byzantine=byzantine) == prompts[best]


def test_colluders_fewer_than_f_do_not_win(crowd, merge):
    """Two equal attackers are at distance 0 of each other, and still lose when f is 2."""
    shared, prompts, _ = crowd
    bad = shared.map(lambda t: t + 50)
    assert merge("krum", shared, [bad, bad, *prompts[2:]], byzantine=2) in prompts[2:]
    kept = merge("multi_krum", shared, [bad, bad, *prompts[2:]], byzantine=2)
    expected = torch.stack([p["a"] for p in prompts[2:]]).mean(0)
    torch.testing.assert_close(kept["a"], expected)
