from __future__ import annotations

import pytest
import torch


def test_by_hand(state, merge):
    # Changes (3, 4), (0, 1), (1e6, 0) of lengths 5, 1, 1e6: the limit is 5. Weights 1/2, 1/4, 1/4.
    shared = state(1, 1)
    prompts = [state(4, 5), state(1, 2), state(1e6 + 1, 1)]
    found = merge("norm_clip", shared, prompts, [2, 1, 1])["ctx"]
    torch.testing.assert_close(found, torch.tensor([1 + 1.5 + 1.25, 1 + 2 + 0.25]))


def test_equal_lengths_give_the_mean(state, merge):
    prompts = [state(1, 0), state(0, 1), state(-1, 0)]
    assert merge("norm_clip", state(0, 0), prompts, [1, 2, 1]) == merge("mean", state(0, 0), prompts, [1, 2, 1])


def test_one_huge_client_does_not_move_the_prompt_beyond_the_limit(crowd, merge):
    shared, prompts, _ = crowd
    lengths = sorted((p - shared).norm() for p in prompts[:6])
    bad = prompts[6].map(lambda t: torch.full_like(t, 1e6))
    clipped = merge("norm_clip", shared, [*prompts[:6], bad])
    assert (clipped - shared).norm() <= lengths[3], "the median of seven"


def test_nothing_changed_stays_nothing_changed(state, merge):
    assert merge("norm_clip", state(2, 3), [state(2, 3)] * 3) == state(2, 3)
    assert merge("norm_clip", state(0), [state(0), state(0), state(9)])["ctx"].item() == pytest.approx(0)
