"""PFPT's server: at its ends it is FedPrompt's mean and local training; in between, groups part."""

from __future__ import annotations

import pytest
import torch

from promptfed.aggregators.mean import Mean
from promptfed.methods.pfpt import MatchingServer
from promptfed.prompt_state import PromptState
from promptfed.types import Update

NAME = "prompt_embeddings"
START = 3 * torch.randn(4, 16, generator=torch.Generator().manual_seed(0))
SHARED = PromptState({NAME: START, "head.bias": torch.zeros(2)})


def server(noise: float) -> MatchingServer:
    return MatchingServer(Mean(Mean.Config()), noise, mass=1.0)


def update(client: int, prompt: torch.Tensor, samples: int = 1) -> Update:
    return Update(client, PromptState({NAME: prompt, "head.bias": torch.full((2,), float(client))}), samples, 0.0, 0.0)


def drift(seed: int, size: float = 0.1) -> torch.Tensor:
    return size * torch.randn(4, 16, generator=torch.Generator().manual_seed(seed))


def test_with_much_noise_all_get_the_mean_by_samples():
    updates = [update(k, START + drift(k + 1), samples=k + 1) for k in range(3)]
    shared, memory = server(100.0).apply(SHARED, updates, PromptState())
    expected, _ = Mean(Mean.Config()).apply(SHARED, updates, PromptState())
    torch.testing.assert_close(shared[NAME], expected[NAME])
    torch.testing.assert_close(shared["head.bias"], expected["head.bias"])
    for client in (None, 0, 2, 9):
        assert torch.equal(server(100.0).broadcast(shared, memory, client)[NAME], shared[NAME])


def test_without_noise_each_keeps_its_own():
    updates = [update(k, START + drift(k + 1)) for k in range(3)]
    shared, memory = server(1e-3).apply(SHARED, updates, PromptState())
    assert len(memory["pool"]) == 12
    for sent in updates:
        torch.testing.assert_close(server(1e-3).broadcast(shared, memory, sent.client)[NAME], sent.shared[NAME])


def test_groups_part_and_an_absent_client_follows_its_own():
    """Clients 0 and 2 pull one way, 1 and 3 the other. Client 3 is not in the second round."""
    pull = drift(99, 0.5)
    rule, ways = server(0.3), {k: (1 if k % 2 else -1) * pull for k in range(4)}
    updates = [update(k, START + ways[k] + drift(k, 0.02)) for k in range(4)]
    shared, memory = rule.apply(SHARED, updates, PromptState())
    sent = {k: rule.broadcast(shared, memory, k)[NAME] for k in range(4)}
    assert torch.equal(sent[0], sent[2])
    assert torch.equal(sent[1], sent[3])
    assert len(memory["pool"]) == 8
    again = [update(k, sent[k] + 0.2 * ways[k] + drift(k + 10, 0.02)) for k in range(3)]
    shared, memory = rule.apply(shared, again, memory)
    assert torch.equal(rule.broadcast(shared, memory, 3)[NAME], rule.broadcast(shared, memory, 1)[NAME])
    assert shared[NAME].shape == START.shape
    torch.testing.assert_close(shared[NAME], rule.broadcast(shared, memory, 0)[NAME]), "what most clients have"


@pytest.mark.parametrize("rotation", [1, 3])
def test_tokens_in_another_order_meet_again(rotation):
    """A client whose prompt has its vectors elsewhere shares them all the same, and gets them back in its order."""
    updates = [update(0, START), update(1, START), update(2, START.roll(rotation, 0))]
    shared, memory = server(0.5).apply(SHARED, updates, PromptState())
    assert len(memory["pool"]) == 4
    torch.testing.assert_close(server(0.5).broadcast(shared, memory, 2)[NAME], START.roll(rotation, 0))
