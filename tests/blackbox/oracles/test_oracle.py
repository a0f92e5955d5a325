"""The oracle never asks the same question twice, and writes down what it asks."""

from __future__ import annotations

import pytest
import torch

from promptfed.blackbox.oracles.budget import Budget, Limits
from promptfed.blackbox.oracles.oracle import Oracle
from promptfed.blackbox.oracles.query import Candidate
from promptfed.errors import BudgetExhausted, ConfigError
from promptfed.usage import Usage


def test_scores_are_candidates_by_examples_by_classes(oracle, text_split):
    split = text_split("hot: fire", "cold: ice ice")
    found = oracle.score(
        [Candidate(), Candidate("lava"), Candidate(soft=torch.full((2, 4), 3.0))], split.items, ["hot"]
    )
    assert torch.equal(found, torch.tensor([[[1.0], [-2.0]], [[1.5], [-1.5]], [[4.0], [1.0]]]))


def test_a_prompt_for_each_example(oracle, text_split):
    split = text_split("hot: fire", "cold: ice")
    soft = torch.stack([torch.zeros(1, 4), torch.full((1, 4), 5.0)])
    assert oracle.score([Candidate(soft=soft)], split.items, ["hot"]).flatten().tolist() == [1.0, 4.0]


def test_no_question_is_asked_twice(oracle, backend, text_split):
    split = text_split("hot: fire", "cold: ice", "hot: fire")
    first = oracle.score([Candidate("ice"), Candidate("ice")], split.items, ["cold", "hot"])
    again = oracle.score([Candidate("ice")], split.items, ["cold", "hot"])
    assert torch.equal(first[0], again[0])
    assert oracle.usage() == Usage(oracle_queries=9, oracle_calls=2, oracle_cache_hits=7)


def test_usage_is_written_down_for_each_account(oracle, text_split):
    split = text_split("hot: fire", "cold: ice")
    with oracle.account(stage="fedbpt"):
        with oracle.account(round=2, client=1):
            oracle.score([Candidate()], split.items, ["hot"])
        oracle.score([Candidate("ice")], split.items, ["hot"])
    rows = [(r["stage"], r["round"], r["client"], r["oracle_calls"]) for r in oracle.ledger.rows()]
    assert rows == [("fedbpt", 0, -1, 2), ("fedbpt", 2, 1, 2)]
    assert oracle.ledger.total("fedbpt") == oracle.ledger.total() == oracle.usage()


def test_a_used_up_budget_keeps_what_was_paid(backend, text_split):
    oracle = Oracle(backend, budget=Budget(Limits(calls=8)))
    split = text_split(*[f"hot: fire x{k}" for k in range(20)])
    with pytest.raises(BudgetExhausted, match="8 calls"):
        oracle.score([Candidate()], split.items, ["hot"])
    assert oracle.usage().oracle_calls == 8
    free = Oracle(backend, cache=oracle.cache)
    free.score([Candidate()], split.items, ["hot"])
    assert free.usage().oracle_calls == 12


def test_an_oracle_says_what_it_cannot_do(oracle, text_split):
    with pytest.raises(ConfigError, match="pixel prompts"):
        oracle.score([Candidate(pixels=torch.zeros(3, 2, 2))], text_split("hot: fire").items, ["hot"])
