from __future__ import annotations


def test_a_share_of_the_way_to_the_mean_by_samples(state, merge):
    prompts = [state(10), state(2)]
    assert merge("interpolated", state(0), prompts, [3, 1], beta=0.25) == state(2)
    assert merge("interpolated", state(0), prompts, [3, 1], beta=1) == state(8)
