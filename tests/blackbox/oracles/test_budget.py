"""A budget is never overshot, by however many threads, and every reservation is settled once."""

from __future__ import annotations

import random
import threading

import pytest

from promptfed.blackbox.oracles.budget import Budget, Limits
from promptfed.errors import BudgetExhausted
from promptfed.usage import Usage


def test_what_is_reserved_counts_until_it_is_settled():
    budget = Budget(Limits(calls=2, tokens=100))
    one = budget.reserve(tokens=60)
    with pytest.raises(BudgetExhausted, match=r"100 tokens is used up.*--max-tokens"):
        budget.reserve(tokens=50)
    budget.settle(one, Usage(oracle_calls=1, prompt_tokens=10, completion_tokens=5))
    two = budget.reserve(tokens=85)
    budget.settle(two, Usage())  # was never sent
    budget.settle(budget.reserve(), Usage(oracle_calls=1))
    with pytest.raises(BudgetExhausted, match=r"2 calls is used up \(spent so far: 2 calls, 15 tokens, 0.0000 usd\)"):
        budget.reserve()
    assert budget.under_way == 0


def test_money_to_the_last_cent():
    budget = Budget(Limits(usd=0.3))
    for _ in range(3):
        budget.settle(budget.reserve(usd=0.1), Usage(oracle_calls=1, usd=0.1))
    with pytest.raises(BudgetExhausted, match=r"0\.3 usd"):
        budget.reserve(usd=1e-9)
    budget.reserve(usd=0.0)


def test_a_refused_reservation_holds_nothing_back():
    budget = Budget(Limits(calls=1))
    with pytest.raises(BudgetExhausted):
        budget.reserve(calls=2)
    budget.reserve(calls=1)


def test_a_reservation_is_settled_once():
    budget = Budget()
    one = budget.reserve()
    budget.settle(one, Usage(oracle_calls=1))
    with pytest.raises(ValueError, match="settled before"):
        budget.settle(one, Usage(oracle_calls=1))
    assert budget.spent.oracle_calls == 1


def test_a_block_that_fails_costs_nothing():
    budget = Budget()
    with pytest.raises(KeyError), budget.reserved(calls=3):
        raise KeyError
    with budget.reserved(calls=2):
        assert budget.under_way == 1
    assert budget.spent == Usage(oracle_calls=2)


def test_what_was_spent_before_counts():
    with pytest.raises(BudgetExhausted):
        Budget(Limits(calls=5), Usage(oracle_calls=5)).reserve()


def test_threads_never_overshoot_and_use_all_there_is():
    budget = Budget(Limits(calls=200, tokens=3000))
    told: list[Usage] = []
    budget.on_settled = lambda reservation, used: told.append(used)
    seen: list[int] = []

    def work(number: int) -> None:
        stream = random.Random(number)
        for _ in range(100):
            try:
                one = budget.reserve(tokens=20)
            except BudgetExhausted:
                continue
            seen.append(budget.spent.oracle_calls)
            used = Usage(oracle_calls=1, prompt_tokens=stream.randint(1, 20)) if stream.random() < 0.8 else Usage()
            budget.settle(one, used)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    total = sum(told, Usage())
    assert total == budget.spent
    assert budget.under_way == 0
    assert total.oracle_calls <= 200
    assert total.prompt_tokens <= 3000
    assert total.oracle_calls == 200 or total.prompt_tokens > 3000 - 8 * 20
