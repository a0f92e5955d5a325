"""Matching of clients' prompts: against the model's own probability, and what must not matter."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch.distributions import MultivariateNormal

from promptfed.aggregators.mean import weighted_mean
from promptfed.prompts.prompt_matching import match_prompts, match_to


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def log_probability(tokens, places, noise, mass):
    """Of tokens and places under the model, up to a constant: members of a global token are jointly normal."""
    clients = len(tokens)
    mean, spread2 = tokens.mean((0, 1)), (tokens - tokens.mean((0, 1))).square().mean()
    total, sharers = 0.0, []
    for place in places.unique():
        members = tokens[places == place]
        m = len(members)
        covariance = noise**2 * torch.eye(m) + spread2 * torch.ones(m, m)
        joint = MultivariateNormal(torch.zeros(m, dtype=torch.float64), covariance.double())
        total += joint.log_prob((members - mean).T).sum().item()
        total += math.log(mass) + math.lgamma(m) + math.lgamma(clients - m + 1) - math.lgamma(clients + 1)
        sharers.append(tuple((places == place).any(1).tolist()))
    return total - sum(math.lgamma(sharers.count(kind) + 1) for kind in set(sharers))


@pytest.mark.parametrize("noise", [0.3, 1.0])
def test_no_client_could_choose_better(noise):
    tokens = draw(3, 2, 2).double()
    places = match_prompts(tokens, noise, mass=0.7).places
    reached = log_probability(tokens, places, noise, 0.7)
    for client, choice in itertools.product(range(3), itertools.permutations(range(int(places.max()) + 3), 2)):
        other = places.clone()
        other[client] = torch.tensor(choice)
        assert log_probability(tokens, other, noise, 0.7) <= reached + 1e-9


def test_the_ends_are_the_mean_and_local_prompts():
    """With much noise all share the tokens at their positions, as FedPrompt has it; without, nobody shares."""
    start = 4 * draw(5, 8)
    prompts, samples = start + 0.1 * draw(3, 5, 8, seed=1), [1.0, 2.0, 5.0]
    together = match_prompts(prompts, noise=1.0, weights=samples)
    assert together.counts.tolist() == [3] * 5
    assert torch.equal(together.places, torch.arange(5).expand(3, 5))
    expected = weighted_mean([{"p": p} for p in prompts], samples)["p"]
    torch.testing.assert_close(together.prompts, expected)
    alone = match_prompts(prompts, noise=1e-4)
    assert len(alone.prompts) == 15
    torch.testing.assert_close(alone.prompts[alone.places], prompts)


def test_the_order_of_tokens_and_clients_does_not_matter():
    prompts = 4 * draw(5, 8) + 0.1 * draw(4, 5, 8, seed=1)
    prompts[3, 2] += 50
    plain = match_prompts(prompts, noise=0.3)
    assert plain.counts.tolist() == [4, 4, 3, 1, 4, 4], "client 3 has a token of its own"
    shuffled = torch.stack(
        [p[torch.randperm(5, generator=torch.Generator().manual_seed(k))] for k, p in enumerate(prompts.flip(0))]
    )
    other = match_prompts(shuffled, noise=0.3)
    assert other.counts.sort().values.tolist() == plain.counts.sort().values.tolist()
    gaps = torch.cdist(plain.prompts, other.prompts).min(1).values
    assert gaps.max() < 1e-4


def test_two_groups_have_tokens_of_their_own_where_they_differ():
    common, apart = 4 * draw(3, 16), 4 * draw(2, 2, 16, seed=1)
    prompts = torch.stack([torch.cat([common, apart[k % 2]]) for k in range(6)]) + 0.05 * draw(6, 5, 16, seed=2)
    matching = match_prompts(prompts, noise=0.1)
    assert sorted(matching.counts.tolist()) == [3, 3, 3, 3, 6, 6, 6]
    assert torch.equal(matching.places[0], matching.places[2])
    assert torch.equal(matching.places[0, :3], matching.places[1, :3])
    assert set(matching.places[0, 3:].tolist()).isdisjoint(matching.places[1, 3:].tolist())


def test_equal_tokens_and_one_client():
    same = match_prompts(torch.ones(3, 2, 4), noise=0.1)
    assert same.prompts.shape == (2, 4)
    torch.testing.assert_close(same.prompts, torch.ones(2, 4))
    single = match_prompts(draw(1, 4, 3), noise=0.5)
    assert torch.equal(single.places, torch.arange(4)[None])
    torch.testing.assert_close(single.prompts, draw(1, 4, 3)[0])


def test_match_to_takes_the_nearest_without_sharing():
    prompts = torch.tensor([[0.0], [10.0], [4.0]])
    assert match_to(torch.tensor([[1.0], [0.5]]), prompts).tolist() == [2, 0]
