from __future__ import annotations

import itertools

import pytest

from promptfed.aggregators.mean import Mean
from promptfed.engines.base import Engine
from promptfed.engines.local import LocalEngine
from promptfed.engines.worker import ClientWorker
from promptfed.federation import Federation
from promptfed.methods.promptfl import PromptFL, PromptFLConfig


@pytest.fixture
def method(setup):
    return PromptFL(PromptFLConfig(), setup)


@pytest.fixture
def federation(method, toy_task):
    return Federation(method, Mean(Mean.Config()), LocalEngine(ClientWorker(method, toy_task)), range(3))


def rounds(federation, state, count):
    for _ in range(count):
        state, _ = federation.run_round(state)
    return state


def test_an_interrupted_round_ends_as_if_it_had_not_been(federation):
    whole = rounds(federation, federation.start(), 3)
    for stop_after in range(3):
        state = rounds(federation, federation.start(), 1)
        asked = itertools.count()
        state, replies = federation.run_round(state, should_stop=lambda k=stop_after, n=asked: next(n) >= k)
        assert state.round == 1
        assert len(state.pending) == len(replies) == stop_after
        assert rounds(federation, state, 2).shared == whole.shared


def test_participants_are_drawn_by_seed_and_round_alone(method):
    half = Federation(method, Mean(Mean.Config()), LocalEngine(lambda job: None), range(10), participation=0.5)
    again = Federation(method, Mean(Mean.Config()), LocalEngine(lambda job: None), range(9, -1, -1), participation=0.5)
    drawn = [half.participants(r) for r in range(1, 30)]
    assert drawn == [again.participants(r) for r in range(1, 30)]
    assert all(len(set(d)) == 5 and d == sorted(d) for d in drawn)
    assert set().union(*drawn) == set(range(10)), "everybody's turn comes"
    assert Federation(method, Mean(Mean.Config()), LocalEngine(lambda job: None), range(10), 0.01).participants(1)


def test_results_do_not_depend_on_the_order_in_which_clients_finish(method, toy_task, federation):
    class Backwards(Engine):
        def run_round(self, jobs, on_reply=None, should_stop=None):
            worker = ClientWorker(method, toy_task)
            return worker(list(reversed(jobs)))

    turned = Federation(method, Mean(Mean.Config()), Backwards(), range(3))
    assert rounds(turned, turned.start(), 2).shared == rounds(federation, federation.start(), 2).shared


def test_clients_that_sit_out_keep_their_personal_state(setup, toy_task):
    from promptfed.methods.context import ContextConfig
    from promptfed.methods.local_only import LocalOnly

    method = LocalOnly(ContextConfig(), setup)
    fed = Federation(
        method, Mean(Mean.Config()), LocalEngine(ClientWorker(method, toy_task)), range(3), participation=0.34
    )
    start = fed.start()
    state, replies = fed.run_round(start)
    worked = {r.client for r in replies}
    assert len(worked) == 1
    assert all((state.personal[c] == start.personal[c]) == (c not in worked) for c in range(3))
