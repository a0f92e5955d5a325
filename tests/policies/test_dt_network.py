"""The decision transformer: what a slot sees, the loss and the actions by hand."""

from __future__ import annotations

import math

import pytest
import torch

from promptfed.policies.dt_network import (
    CONTEXT,
    FEATURES,
    LOGITS,
    PARTS,
    PIECE,
    WIDTH,
    DecisionTransformer,
    action_loss,
    greedy_actions,
    right_choices,
)


@pytest.fixture(scope="module")
def network() -> DecisionTransformer:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return DecisionTransformer().eval()


def slots(n: int, length: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    actions = torch.cat([
        torch.randint(0, 4, (n, length, 12), generator=draw).float(),
        torch.rand(n, length, 4, generator=draw).softmax(-1),
    ], -1)  # fmt: skip
    return torch.rand(n, length, generator=draw), torch.randn(n, length, FEATURES, generator=draw), actions


def test_a_slot_sees_nothing_that_comes_later_and_not_its_own_action(network: DecisionTransformer) -> None:
    returns, seen, done = slots(2, CONTEXT)
    before = network(returns, seen, done)
    assert before.shape == (2, CONTEXT, LOGITS)
    done[:, 2:] = 0
    returns[:, 3:], seen[:, 3:] = 9, 9
    after = network(returns, seen, done)
    torch.testing.assert_close(after[:, :3], before[:, :3])
    assert not torch.allclose(after[:, 3], before[:, 3])


def test_a_prompt_is_tokens_that_stand_before(network: DecisionTransformer) -> None:
    pieces, (returns, seen, done) = slots(2, PIECE, seed=1), slots(2, CONTEXT)
    prompt = network.piece(*pieces)
    assert prompt.shape == (2, PIECE * PARTS, WIDTH)
    both = network(returns, seen, done, prompt)
    assert both.shape == (2, CONTEXT, LOGITS)
    assert not torch.allclose(both, network(returns, seen, done), atol=1e-3)
    for row in range(2):
        alone = network(returns, seen, done, prompt[row : row + 1])[row]
        torch.testing.assert_close(both[row], alone, atol=1e-5, rtol=1e-4)


def test_the_loss_is_cross_entropy_and_divergence() -> None:
    logits = torch.zeros(1, LOGITS)
    actions = torch.tensor([[0.0] * 12 + [0.7, 0.1, 0.1, 0.1]])
    divergence = sum(p * math.log(p / 0.25) for p in (0.7, 0.1, 0.1, 0.1))
    assert action_loss(logits, actions).item() == pytest.approx(math.log(4) + 4 * divergence, rel=1e-5)
    logits[0, 0] = 50.0  # sure, and right, of one choice in twelve
    assert action_loss(logits, actions, weight=0).item() == pytest.approx(11 / 12 * math.log(4), rel=1e-5)


def test_the_likeliest_is_done() -> None:
    logits = torch.zeros(3, LOGITS)
    logits[:, 4 * 2 + 3] = 1.0  # of the third choice the highest resolution
    logits[:, -1] = math.log(3.0)
    actions = greedy_actions(logits)
    assert actions[0, :12].tolist() == [0, 0, 3, *[0] * 9]
    assert actions[0, 12:].tolist() == pytest.approx([1 / 6, 1 / 6, 1 / 6, 1 / 2])
    assert right_choices(logits, torch.zeros(3, FEATURES)).tolist() == pytest.approx([11 / 12] * 3)
