from __future__ import annotations

import torch


def test_by_hand(state, merge):
    # Changes (3, 4), (0, 1), (1e6, 0) of lengths 5, 1, 1e6 and a bound of 2. Weights 1/2, 1/4, 1/4.
    prompts = [state(4, 5), state(1, 2), state(1e6 + 1, 1)]
    found = merge("norm_bound", state(1, 1), prompts, [2, 1, 1], bound=2)["ctx"]
    torch.testing.assert_close(found, torch.tensor([1 + 0.6 + 0.5, 1 + 0.8 + 0.25]))


def test_a_bound_that_nobody_reaches_is_the_mean(crowd, merge):
    shared, prompts, samples = crowd
    assert merge("norm_bound", shared, prompts, samples, bound=1e3) == merge("mean", shared, prompts, samples)


def test_the_prompt_moves_by_the_bound_at_most(crowd, merge):
    shared, prompts, _ = crowd
    huge = [p.map(lambda t: t + 1e6) for p in prompts]
    assert (merge("norm_bound", shared, huge, bound=0.5) - shared).norm() <= 0.5 * (1 + 1e-6)


def test_the_norm_is_over_all_tensors_together(crowd, merge):
    shared, prompts, _ = crowd
    found = merge("norm_bound", shared, prompts[:1], bound=0.1) - shared
    full = prompts[0] - shared
    factor = 0.1 / full.norm()
    for name in full:
        torch.testing.assert_close(found[name], full[name] * factor, rtol=1e-4, atol=1e-6)
