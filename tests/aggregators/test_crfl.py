from __future__ import annotations

import math

import pytest
import torch

from promptfed.aggregators.base import build_aggregator
from promptfed.prompt_state import PromptState
from promptfed.types import Update


def test_clipping_by_hand(state, merge):
    # The mean is (4, 5), which is (3, 4) from the start and 5 long; rho_1 = 2 + 0.5.
    prompts = [state(7, 9), state(1, 1)]
    found = merge("crfl", state(1, 1), prompts, sigma=0, bound=2, growth=0.5)["ctx"]
    torch.testing.assert_close(found, torch.tensor([1 + 1.5, 1 + 2.0]))
    found = merge("crfl", state(1, 1), [state(3, 4)], sigma=0, bound=2, growth=0.5, center="zero")["ctx"]
    torch.testing.assert_close(found, torch.tensor([1.5, 2.0]))


def test_the_bound_grows_with_the_rounds(state):
    rule = build_aggregator("crfl", {"sigma": 0, "bound": 1, "growth": 1})
    shared, server, lengths = state(0), rule.init(state(0)), []
    for _ in range(3):
        shared, server = rule.apply(shared, [Update(0, state(50), 1, 0.0, 0.0)], server)
        lengths.append(shared["ctx"].item())
    assert lengths == [2, 3, 4]


def test_without_noise_and_within_the_bound_it_is_the_mean(crowd, merge):
    shared, prompts, samples = crowd
    mean = merge("mean", shared, prompts, samples)
    for name, tensor in merge("crfl", shared, prompts, samples, sigma=0, bound=100).items():
        torch.testing.assert_close(tensor, mean[name], rtol=1e-5, atol=1e-6)


def noises(seed, rounds=2, last=None, size=20_000):
    """What each round added to an unchanged prompt of zeros."""
    rule = build_aggregator("crfl", {"sigma": 0.5, "bound": 1e6, "rounds": last}).seeded(seed)
    zero = PromptState({"a": torch.zeros(size), "b": torch.zeros(3)})
    server, found = rule.init(zero), []
    for _ in range(rounds):
        merged, server = rule.apply(zero, [Update(0, zero, 1, 0.0, 0.0)], server)
        found.append(merged["a"])
    return found


def test_noise_has_the_standard_deviation_and_is_new_in_each_round():
    first, second = noises(1)
    assert first.std().item() == pytest.approx(0.5, rel=0.03)
    assert abs(first.mean().item()) < 5 * 0.5 / math.sqrt(20_000)
    assert abs(torch.corrcoef(torch.stack([first, second]))[0, 1].item()) < 0.04
    assert torch.equal(first, noises(1)[0]), "by the seed"
    assert not torch.equal(first, noises(2)[0])


def test_the_last_round_that_it_is_told_of_has_none():
    found = noises(1, rounds=3, last=2, size=5)
    assert [bool(noise.any()) for noise in found] == [True, False, True]


def test_a_tensor_that_nobody_sent_has_neither_noise_nor_a_length(state):
    shared = PromptState({"ctx": torch.zeros(1), "rest": torch.full((2,), 1e3)})
    rule = build_aggregator("crfl", {"sigma": 0, "center": "zero", "bound": 3, "growth": 0})
    merged, server = rule.apply(shared, [Update(0, state(2), 1, 0.0, 0.0)], rule.init(shared))
    assert merged == PromptState({**shared, "ctx": torch.tensor([2.0])})
    assert set(server) == {"merges"}
