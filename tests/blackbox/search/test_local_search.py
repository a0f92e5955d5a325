from __future__ import annotations

from itertools import product

import pytest

from promptfed.blackbox.search.local_search import LocalSearch
from promptfed.seeding import numpy_stream

NAN = float("nan")


def anything(position, tokens):
    return range(4)


def hamming(target):
    return lambda tokens: float(sum(a != b for a, b in zip(tokens, target, strict=True)))


def distance(one, other):
    return sum(a != b for a, b in zip(one, other, strict=True))


def run(searcher, objective, n=None, most=1000):
    """Ask and tell until it stops; all that was asked for."""
    asked = []
    for _ in range(most):
        if searcher.stop():
            return asked
        candidates = searcher.ask(n)
        asked += candidates
        searcher.tell(candidates, [objective(tokens) for tokens in candidates])
    raise AssertionError("it does not stop")


def test_the_first_list_asked_for_is_the_start_unless_its_fitness_is_known(stream):
    assert LocalSearch((0, 1, 2), anything, stream).ask() == [(0, 1, 2)]
    assert LocalSearch((0, 1, 2), anything, stream).ask(3)[0] == (0, 1, 2)
    (first,) = LocalSearch((0, 1, 2), anything, stream, fitness=2.0).ask()
    assert distance(first, (0, 1, 2)) == 1


@pytest.mark.parametrize("n", [1, 3, 50])
def test_it_climbs_to_the_hidden_list_and_stops_there(n, stream):
    target = (3, 1, 0, 2, 2)
    searcher = LocalSearch((0, 0, 0, 0, 0), anything, stream)
    asked = run(searcher, hamming(target), n)
    assert searcher.best() == target
    assert searcher.fitness == 0
    assert searcher.stop() == {"local optimum": target}
    assert len(asked) == len(set(asked))
    around = {tuple(t if i == j else x for j, x in enumerate(target)) for i in range(5) for t in range(4)}
    assert around <= set(asked)  # it knows that it is one


def test_nothing_is_asked_for_twice_while_something_is_left(stream):
    """All worse than the start: exactly the start and its neighbours are looked at, then they come again."""
    searcher = LocalSearch((1, 1), anything, stream)
    asked = run(searcher, hamming((1, 1)), 2)
    every = {tokens for tokens in product(range(4), repeat=2) if distance(tokens, (1, 1)) <= 1}
    assert len(asked) == len(every) == 7
    assert set(asked) == every
    again = searcher.ask(4)
    assert len(set(again)) == 4
    assert set(again) < every - {(1, 1)}


def test_asking_again_before_telling_gives_other_lists(stream):
    searcher = LocalSearch((0, 0), anything, stream, fitness=1.0)
    assert len(set(searcher.ask(4) + searcher.ask(2))) == 6
    assert searcher.stop() == {}  # nobody told how good they are


def test_only_proposals_are_tried_and_each_position_is_asked_once_for_a_current_list():
    calls = []

    def propose(position, tokens):
        calls.append((position, tokens))
        return [9, 9, tokens[position], 8] if position == 1 else []

    searcher = LocalSearch((0, 0, 0), propose, numpy_stream(1, "local"))
    asked = run(searcher, lambda tokens: 0.0)
    assert set(asked) == {(0, 0, 0), (0, 9, 0), (0, 8, 0)}
    assert len(calls) == len(set(calls)) == 3


def test_proposals_see_the_list_they_would_go_into(stream):
    def propose(position, tokens):
        return [tokens[position] + 1] if tokens[position] < 2 else []

    searcher = LocalSearch((0, 0), propose, stream)
    run(searcher, lambda tokens: -float(sum(tokens)))
    assert searcher.best() == (2, 2)


def test_without_any_neighbour_the_start_comes_again_and_is_the_answer(stream):
    searcher = LocalSearch((5,), lambda position, tokens: tokens, stream)
    run(searcher, lambda tokens: 1.0)
    assert searcher.stop() == {"local optimum": (5,)}
    assert searcher.ask(3) == [(5,)]
    assert searcher.best() == (5,)


def test_the_best_of_several_is_taken_and_of_equals_the_first(stream):
    searcher = LocalSearch((0, 0), anything, stream, fitness=5.0)
    searcher.tell([(0, 1), (0, 2), (0, 3), (1, 0)], [5.0, 4.0, 3.0, 3.0])
    assert searcher.best() == (0, 3)
    searcher.tell([(2, 3)], [4.0])
    assert searcher.best() == (0, 3)


@pytest.mark.parametrize(("accept_ties", "expected"), [(False, (0, 0)), (True, (0, 1))])
def test_a_tie_moves_only_if_it_may(accept_ties, expected, stream):
    searcher = LocalSearch((0, 0), anything, stream, fitness=1.0, accept_ties=accept_ties)
    searcher.tell([(0, 1)], [1.0])
    assert searcher.best() == expected


def test_what_is_not_finite_never_becomes_the_best(stream):
    for accept_ties in (False, True):
        searcher = LocalSearch((0, 0), anything, stream, accept_ties=accept_ties)
        searcher.tell([(0, 0), (0, 1), (0, 2), (0, 3)], [NAN, NAN, float("inf"), -float("inf")])
        assert searcher.best() == (0, 0)
        searcher.tell([(1, 0)], [1e9])
        assert searcher.best() == (1, 0)
        searcher.tell([(2, 0)], [NAN])
        assert searcher.best() == (1, 0)


def test_a_noisy_current_list_can_be_told_again(stream):
    searcher = LocalSearch((0, 0), anything, stream, fitness=0.1)  # a lucky mini-batch
    searcher.tell([(0, 0), (0, 1)], [0.9, 0.8])
    assert searcher.best() == (0, 1)
    assert searcher.fitness == 0.8


def test_equal_streams_search_the_same_and_others_do_not():
    one, same, other = (
        run(LocalSearch((0,) * 6, anything, numpy_stream(seed, "local")), hamming((1, 2, 3, 3, 2, 1)))
        for seed in (1, 1, 2)
    )
    assert one == same
    assert one != other
