"""Two rounds of each server optimiser, worked out by hand."""

from __future__ import annotations

import pytest
import torch

from promptfed.aggregators.base import build_aggregator
from promptfed.prompt_state import PromptState
from promptfed.types import Update


def run(name, shared, rounds, **options):
    server = build_aggregator(name, options)
    memory, seen = server.init(shared), []
    for updates in rounds:
        shared, memory = server.apply(shared, updates, memory)
        seen.append(shared["ctx"].item())
    return seen, memory


def test_fedavgm_by_hand(state, send):
    # round 1: delta (3*2 + 1*6)/4 - 1 = 2, m = 2, x = 1 + 0.5*2 = 2; round 2: delta 4, m = 0.5*2 + 4 = 5, x = 4.5
    rounds = [[send(0, state(2), 3), send(1, state(6), 1)], [send(0, state(6))]]
    seen, memory = run("fedavgm", state(1), rounds, server_lr=0.5, momentum=0.5)
    assert seen == pytest.approx([2.0, 4.5])
    assert memory["momentum/ctx"].item() == pytest.approx(5.0)


def test_fedavgm_without_momentum_is_the_mean(crowd, merge):
    shared, prompts, samples = crowd
    plain = merge("mean", shared, prompts, samples)
    same = merge("fedavgm", shared, prompts, samples, momentum=0, server_lr=1)
    torch.testing.assert_close(same["a"], plain["a"])


# Deltas 2 and then 1, tau 1, so v starts at 1; beta1 0.5, beta2 0.75, server_lr 1.
# m = 0.5 * 2 = 1, then 0.5 * 1 + 0.5 * 1 = 1.
BY_HAND = {
    "fedadagrad": (1 + 4, 1 + 4 + 1),
    "fedadam": (0.75 * 1 + 0.25 * 4, 0.75 * 1.75 + 0.25 * 1),
    "fedyogi": (1 + 0.25 * 4, 2 - 0.25 * 1),  # first v < delta^2, so it grows; then v > delta^2, so it shrinks
}


@pytest.mark.parametrize("name", BY_HAND)
def test_adaptive_optimisers_by_hand(name, state, send):
    options = {"server_lr": 1.0, "beta1": 0.5, "tau": 1.0} | ({} if name == "fedadagrad" else {"beta2": 0.75})
    first, second = BY_HAND[name]
    x1 = 1 / (first**0.5 + 1)
    x2 = x1 + 1 / (second**0.5 + 1)
    seen, memory = run(name, state(0), [[send(0, state(2))], [send(0, state(x1 + 1))]], **options)
    assert seen == pytest.approx([x1, x2], rel=1e-6)
    assert memory["second/ctx"].item() == pytest.approx(second, rel=1e-6)
    assert memory["momentum/ctx"].item() == pytest.approx(1.0, rel=1e-6)


@pytest.mark.parametrize("name", ["fedavgm", "fedadagrad", "fedadam", "fedyogi"])
def test_samples_weigh_and_memory_is_kept_by_name(name, state, send, crowd):
    shared, prompts, _ = crowd
    by_count, _ = run(name, state(0), [[send(0, state(4), 3), send(1, state(0), 1)]])
    as_one, _ = run(name, state(0), [[send(0, state(3))]])
    assert by_count == pytest.approx(as_one)
    server = build_aggregator(name, {})
    memory = server.init(shared)
    _, later = server.apply(shared, [send(0, prompts[0])], memory)
    assert set(later) == set(memory)
    assert {key.split("/")[1] for key in later} == {"a", "b"}


@pytest.mark.parametrize("name", ["fedadagrad", "fedadam", "fedyogi"])
@pytest.mark.parametrize("size", [1e22, 1e38, -3.4e38])
def test_a_change_too_large_to_square_is_left_out_and_training_goes_on(name, size, caplog):
    """An infinite second moment would stop every later step, without a word."""
    shared = PromptState({"ctx": torch.zeros(4), "other": torch.zeros(2)})
    huge = Update(0, PromptState({"ctx": torch.full((4,), size), "other": torch.ones(2)}), 1, 0.0, 0.0)
    rule = build_aggregator(name, {})
    server = rule.init(shared)
    after, memory = rule.apply(shared, [huge], server)
    assert torch.equal(after["ctx"], shared["ctx"])
    assert all(torch.equal(memory[key], server[key]) for key in server if key.endswith("/ctx"))
    assert "'ctx' is left as it was" in caplog.text
    assert after["other"].min() > 0, "the other tensor moves"

    honest = Update(0, PromptState({"ctx": torch.full((4,), 0.1), "other": torch.ones(2)}), 1, 0.0, 0.0)
    later, _ = rule.apply(after, [honest], memory)
    fresh, _ = rule.apply(shared, [honest], server)
    assert torch.equal(later["ctx"], fresh["ctx"]), "as if the huge one had never been"
    assert later["ctx"].min() > 0


@pytest.mark.parametrize("size", [3e38, -3e38])
def test_a_step_beyond_float32_is_not_taken(size):
    shared = PromptState({"ctx": torch.full((4,), size)})
    rule = build_aggregator("fedavgm", {})
    after, memory = rule.apply(shared, [Update(0, shared.map(lambda t: -t), 1, 0.0, 0.0)], rule.init(shared))
    assert after == shared
    assert memory.is_finite()
