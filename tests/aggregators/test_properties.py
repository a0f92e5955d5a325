"""What must hold for all ways of merging, whatever finite numbers come."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from promptfed.aggregators.base import AGGREGATORS, build_aggregator
from promptfed.prompt_state import PromptState
from promptfed.screening import limited
from promptfed.types import Update

NAMES = tuple(AGGREGATORS)
OPTIONS = {"clustered": {"warmup": 2}, "fltrust": {"root": 0}}
BETWEEN = (
    "mean",
    "uniform",
    "median",
    "trimmed_mean",
    "krum",
    "multi_krum",
    "geometric_median",
    "fedamp",
    "clustered",
    "dnc",
    "bucketing",
    "reliability",
)
"""Rules whose result lies, number by number, between the smallest and the largest that was sent."""
FLOATS = st.one_of(
    st.floats(-1, 1, width=32),
    st.floats(-(2.0**127), 2.0**127, width=32),
    st.sampled_from([0.0, -0.0, 1e-38, 1e6, -1e12, 1e38, -(2.0**127), 2.0**127]),
)


@st.composite
def rounds(draw, numbers=FLOATS):
    """A shared prompt of two tensors and the updates of one round."""
    clients = draw(st.integers(1, 7))

    def state():
        values = draw(st.lists(numbers, min_size=5, max_size=5))
        return PromptState({"a": torch.tensor(values[:3]), "b": torch.tensor(values[3:]).reshape(2, 1)})

    shared = state()
    counts = draw(st.lists(st.one_of(st.integers(1, 40), st.just(10**9)), min_size=clients, max_size=clients))
    return shared, [Update(i, state(), n, 0.0, 0.0) for i, n in enumerate(counts)]


def repeat(name, shared, updates, times=3):
    """The rule, the shared prompt and the server's memory after ``times`` rounds of the same updates."""
    rule = build_aggregator(name, OPTIONS.get(name, {}))
    server = rule.init(shared)
    for _ in range(times):
        shared, server = rule.apply(shared, updates, server)
    return rule, shared, server


ATTEMPTS = settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@pytest.mark.parametrize("name", NAMES)
@ATTEMPTS
@given(case=rounds())
def test_finite_numbers_never_become_infinite(name, case):
    shared, updates = case
    rule, merged, server = repeat(name, shared, updates)
    assert merged.is_finite()
    assert server.is_finite()
    assert all(rule.broadcast(merged, server, client).is_finite() for client in (None, 0, 5))


@pytest.mark.parametrize("name", NAMES)
@ATTEMPTS
@given(case=rounds(st.floats(-1, 1, width=32)), seed=st.integers(0, 99))
def test_the_order_of_updates_does_not_matter(name, case, seed):
    shared, updates = case
    shuffled = [updates[i] for i in np.random.default_rng(seed).permutation(len(updates))]
    _, one, _ = repeat(name, shared, updates, 1)
    _, other, _ = repeat(name, shared, shuffled, 1)
    if name in ("krum", "multi_krum"):  # of equal scores the first wins: one of those that were sent
        assert one.is_finite()
        return
    for key in one:
        torch.testing.assert_close(one[key], other[key], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", BETWEEN)
@ATTEMPTS
@given(case=rounds())
def test_the_result_lies_between_what_was_sent(name, case):
    shared, updates = case
    _, merged, _ = repeat(name, shared, updates, 1)
    for key in shared:
        sent = torch.stack([update.shared[key] for update in updates]).double()
        slack = 1e-6 * sent.abs().max() + 1e-30
        assert bool(((merged[key] >= sent.amin(0) - slack) & (merged[key] <= sent.amax(0) + slack)).all())


@pytest.mark.parametrize("name", BETWEEN)
@ATTEMPTS
@given(case=rounds())
def test_equal_updates_are_merged_to_themselves(name, case):
    shared, updates = case
    equal = [Update(u.client, updates[0].shared, u.samples, 0.0, 0.0) for u in updates]
    _, merged, _ = repeat(name, shared, equal, 1)
    for key in merged:
        torch.testing.assert_close(merged[key], updates[0].shared[key], rtol=1e-6, atol=1e-30)


@pytest.mark.parametrize("liar", [0, 3, 9])
@pytest.mark.parametrize("name", NAMES)
def test_a_liar_of_counts_moves_the_result_no_further_than_its_share(name, liar, crowd):
    """Ten honest prompts near each other, one of which claims a billion samples: with half of the weight it moves the
    result at most to the middle between itself and the others."""
    shared, prompts, _ = crowd
    prompts = [*prompts, *[p * 0.99 for p in prompts[:3]]]
    updates = [Update(i, p, 10**9 if i == liar else 10, 0.0, 0.0) for i, p in enumerate(prompts)]
    assert sum(update.samples for update in limited(updates, 0.5)) == 180
    aggregator = build_aggregator("mean", {})
    bounded, _ = aggregator.apply(shared, limited(updates, 0.5), PromptState())
    others, _ = aggregator.apply(shared, [u for u in updates if u.client != liar], PromptState())
    for key in shared:
        torch.testing.assert_close(bounded[key], (prompts[liar][key] + others[key]) / 2, rtol=1e-4, atol=1e-5)
    _, merged, server = repeat(name, shared, limited(updates, 0.5), 1)
    assert merged.is_finite()
    assert server.is_finite()
