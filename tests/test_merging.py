"""A merge leaves the shared prompt whole and finite, or as it was."""

from __future__ import annotations

import pytest
import torch

from promptfed.aggregators.base import Aggregator, AggregatorConfig
from promptfed.aggregators.mean import Mean
from promptfed.errors import BudgetExhausted, OracleError
from promptfed.merging import merge
from promptfed.prompt_state import PromptState
from promptfed.types import NO_PROMPT, Update

SHARED, SERVER = PromptState({"x": torch.zeros(2)}), PromptState({"memory": torch.ones(2)})


def updates(*values):
    return [Update(i, PromptState({"x": torch.full((2,), float(v))}), 1, 0.0, 0.0) for i, v in enumerate(values)]


class Touchy(Aggregator):
    """The mean, for all but numbers below zero, which do to it what ``how`` says."""

    def __init__(self, how):
        super().__init__(AggregatorConfig())
        self.how = how

    def apply(self, shared, updates, server):
        if any(update.shared["x"][0] < 0 for update in updates):
            return self.how(shared, server)
        return Mean(Mean.Config()).apply(shared, updates, server)

    def broadcast(self, shared, server, client):
        return shared.map(lambda t: t / 0) if "trap" in server and client is not None else shared


def fail(shared, server):
    raise IndexError("list index out of range")


WAYS = {
    "infinite prompt": lambda shared, server: (PromptState({"x": torch.full((2,), torch.inf)}), server),
    "NaN in the prompt": lambda shared, server: (PromptState({"x": torch.tensor([0, torch.nan])}), server),
    "infinite memory": lambda shared, server: (shared, PromptState({"memory": torch.tensor([torch.inf, 1])})),
    "infinite for a client": lambda shared, server: (
        PromptState({"x": torch.ones(2)}), PromptState({"trap": torch.ones(1)})
    ),
    "an exception": fail,
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("values", [(1, -1, 3), (-1, 1, 3), (-1, -2, 2)])
def test_who_breaks_the_merge_alone_is_left_out_and_the_rest_is_merged(way, values):
    found = merge(Touchy(WAYS[way]), SHARED, updates(*values), SERVER)
    bad = {i for i, value in enumerate(values) if value < 0}
    assert set(found.refused) == bad
    assert all("cannot be merged" in why for why in found.refused.values())
    good = [value for value in values if value > 0]
    assert found.shared == PromptState({"x": torch.full((2,), sum(good) / len(good))})
    assert found.server == SERVER
    assert found.problem == ""


def test_what_only_all_together_break_leaves_everything_as_it_was():
    class Crowded(Aggregator):
        def apply(self, shared, updates, server):
            return (shared.map(lambda t: t / 0), server) if len(updates) > 2 else (shared, server)

    found = merge(Crowded(AggregatorConfig()), SHARED, updates(1, 2, 3), SERVER)
    assert (found.shared, found.server, found.refused) == (SHARED, SERVER, {})
    assert found.problem == "the merged prompt would not be finite"


def test_a_rule_that_fails_with_everybody_is_at_fault_itself():
    class Broken(Aggregator):
        def apply(self, shared, updates, server):
            raise KeyError("momentum")

    with pytest.raises(KeyError, match="momentum"):
        merge(Broken(AggregatorConfig()), SHARED, updates(1, 2, 3), SERVER)


@pytest.mark.parametrize("error", [BudgetExhausted("no calls left"), OracleError("no answer")])
def test_what_is_no_updates_fault_is_passed_on(error):
    def stop(shared, server):
        raise error

    with pytest.raises(type(error)):
        merge(Touchy(stop), SHARED, updates(1, -1), SERVER)


def test_nobody_is_asked_twice_where_all_goes_well():
    calls = []

    class Counting(Mean):
        def apply(self, shared, updates, server):
            calls.append(len(updates))
            return super().apply(shared, updates, server)

    merge(Counting(Mean.Config()), SHARED, updates(1, 2, 3), NO_PROMPT)
    assert calls == [3]
