from __future__ import annotations

import pytest
import torch

from promptfed.aggregators.base import build_aggregator
from promptfed.aggregators.bucketing import bucket_means
from promptfed.errors import ConfigError
from promptfed.prompt_state import PromptState


def test_buckets_by_hand(state, send):
    updates = [send(4, state(0, 1), 3), send(1, state(2, 1), 1), send(3, state(7, 7), 5)]
    first, second = bucket_means(updates, 2)
    assert (first.client, first.samples, first.shared) == (1, 4, state(1, 1)), "with equal weights"
    assert (second.client, second.samples, second.shared) == (3, 5, state(7, 7)), "the one that is left over"


def test_a_tensor_is_averaged_over_those_who_sent_it(state, send):
    both = PromptState({"ctx": torch.ones(1), "own": torch.ones(2)})
    [mean] = bucket_means([send(0, both), send(1, state(3))], 2)
    assert mean.shared == PromptState({"ctx": torch.full((1,), 2.0), "own": torch.ones(2)})


@pytest.mark.parametrize("rule", ["median", "krum", "geometric_median", "trimmed_mean", "fedadam"])
def test_buckets_of_one_change_nothing(rule, crowd, merge):
    shared, prompts, samples = crowd
    found = merge("bucketing", shared, prompts, samples, size=1, rule=rule)
    assert found == merge(rule, shared, prompts, samples)


def test_the_uniform_mean_of_whole_buckets_is_the_uniform_mean(crowd, merge):
    shared, prompts, _ = crowd
    found = merge("bucketing", shared, prompts[:6], size=3, rule="uniform")
    for name, tensor in merge("uniform", shared, prompts[:6]).items():
        torch.testing.assert_close(found[name], tensor)


def test_each_round_deals_anew_and_the_seed_decides(send):
    shared = PromptState({"ctx": torch.zeros(6)})
    updates = [send(i, PromptState({"ctx": torch.eye(6)[i]})) for i in range(6)]

    def first_pairs(seed):
        rule = build_aggregator("bucketing", {"rule": "krum", "options": {"byzantine": 0}}).seeded(seed)
        server, found = rule.init(shared), []
        for _ in range(8):
            merged, server = rule.apply(shared, updates, server)
            found.append(tuple(merged["ctx"].nonzero().flatten().tolist()))
        return found

    assert first_pairs(1) == first_pairs(1)
    assert first_pairs(1) != first_pairs(2)
    assert len(set(first_pairs(1))) > 1
    assert all(len(pair) == 2 for pair in first_pairs(1))


def test_the_memory_of_the_rule_inside_is_its_own(crowd, send):
    """Three rounds of momentum under buckets of one are three rounds of momentum."""
    shared, prompts, samples = crowd
    updates = [send(i, p, n) for i, (p, n) in enumerate(zip(prompts, samples, strict=True))]
    plain, wrapped = build_aggregator("fedavgm", {}), build_aggregator("bucketing", {"size": 1, "rule": "fedavgm"})
    prompt, server, expected, memory = shared, wrapped.init(shared), shared, plain.init(shared)
    for _ in range(3):
        prompt, server = wrapped.apply(prompt, updates, server)
        expected, memory = plain.apply(expected, updates, memory)
    assert prompt == expected
    assert {name.removeprefix("inner/") for name in server if name != "merges"} == set(memory)


@pytest.mark.parametrize("rule", ["fedamp", "clustered", "foolsgold", "fltrust", "bucketing"])
def test_rules_that_know_clients_are_refused_inside(rule):
    with pytest.raises(ConfigError, match=f"cannot merge by '{rule}'"):
        build_aggregator("bucketing", {"rule": rule})


def test_a_rule_inside_that_draws_has_the_seed_too():
    rule = build_aggregator("bucketing", {"rule": "dnc"}).seeded(7)
    assert (rule.seed, rule.inner.seed) == (7, 7)
