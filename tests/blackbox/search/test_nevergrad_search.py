from __future__ import annotations

import warnings

import numpy as np
import pytest

pytest.importorskip("nevergrad")

from promptfed.blackbox.search.nevergrad_search import DEFAULT, NevergradSearch
from promptfed.errors import ConfigError
from promptfed.seeding import numpy_stream

TARGET = (1, 4, 0, 3)
NAN = float("nan")


def hamming(tokens):
    return float(sum(a != b for a, b in zip(tokens, TARGET, strict=True)))


def search(name=DEFAULT, seed=1, budget=60, **options):
    return NevergradSearch(name, 4, 5, budget, numpy_stream(seed, "nevergrad"), **options)


def run(searcher, objective=hamming):
    asked = []
    while not searcher.stop():
        candidates = searcher.ask()
        asked += candidates
        searcher.tell(candidates, [objective(tokens) for tokens in candidates])
    return asked


# NGOpt draws from numpy's global generator, which the fixture of this folder would notice.
@pytest.mark.parametrize("name", [DEFAULT, "DiscreteOnePlusOne", "TBPSA", "NGOpt", "CMA", "TwoPointsDE"])
def test_equal_streams_search_the_same_whatever_the_global_generator_holds(name):
    def told(seed):
        searcher = search(name, seed, budget=30, workers=2)
        return run(searcher), searcher.best()

    outside = np.random.get_state()  # noqa: NPY002
    try:
        one = told(1)
        np.random.seed(99)  # noqa: NPY002
        same, other = told(1), told(2)
    finally:
        np.random.set_state(outside)  # noqa: NPY002
    assert one == same
    assert one != other


@pytest.mark.parametrize("options", [{}, {"transition": True}])
def test_it_improves_on_its_first_list(options):
    searcher = search(budget=200, **options)
    asked = run(searcher)
    assert hamming(searcher.best()) <= 1 < np.mean([hamming(tokens) for tokens in asked[:5]])
    assert searcher.stop() == {"budget": 200}
    assert len(asked) == 200


def test_candidates_are_tuples_of_plain_integers_in_range():
    searcher = search(workers=3)
    candidates = searcher.ask()
    assert len(candidates) == 3
    assert len(searcher.ask(5)) == 5
    assert all(type(tokens) is tuple and all(type(token) is int and 0 <= token < 5 for token in tokens)
               for tokens in candidates)  # fmt: skip
    assert all(len(tokens) == 4 for tokens in candidates)


@pytest.mark.parametrize("name", [DEFAULT, "TBPSA", "TwoPointsDE", "CMA", "NGOpt", "RandomSearch"])
def test_the_start_is_the_first_candidate_and_the_best_before_any_tell(name):
    start = (4, 4, 2, 1)
    searcher = search(name, start=start, budget=20, workers=2)
    assert searcher.best() == start
    candidates = searcher.ask()
    assert candidates[0] == start
    searcher.tell(candidates, [0.0, 5.0])
    run(searcher)
    assert searcher.told == 20


def test_best_is_usable_before_any_tell():
    tokens = search().best()
    assert len(tokens) == 4
    assert all(0 <= token < 5 for token in tokens)


@pytest.mark.parametrize("bad", [NAN, float("inf"), -float("inf")])
def test_what_is_not_finite_never_becomes_the_best(bad):
    searcher = search(budget=40)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nevergrad would warn of a clipped loss
        asked = run(searcher, lambda tokens: 3.0 + hamming(tokens) if tokens[0] % 2 else bad)
    assert any(tokens[0] % 2 for tokens in asked)
    assert searcher.best()[0] % 2


def test_flat_fitness_and_no_fitness_at_all_do_not_break_it():
    for value in (0.5, NAN):
        searcher = search(budget=20)
        run(searcher, lambda tokens, value=value: value)
        assert len(searcher.best()) == 4


@pytest.mark.parametrize("name", [DEFAULT, "TBPSA", "NGOpt"])
def test_lists_from_elsewhere_are_taken_in(name):
    searcher = search(name, budget=10)
    candidates = searcher.ask(3)
    searcher.tell([*candidates[::-1], TARGET], [9.0, 9.0, 9.0, 0.0])
    assert searcher.told == 4
    if name == DEFAULT:
        assert searcher.best() == TARGET


def test_a_list_asked_for_twice_is_told_twice():
    searcher = NevergradSearch(DEFAULT, 1, 2, 20, numpy_stream(1, "nevergrad"))
    candidates = searcher.ask(10)
    assert len(set(candidates)) <= 2
    searcher.tell(candidates, [float(tokens[0]) for tokens in candidates])
    assert not searcher._pending
    assert searcher.best() == (0,)


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ConfigError, match="Did you mean 'PortfolioDiscreteOnePlusOne'") as caught:
        search("PortfolioDiscreteOnePlusOnes")
    assert len(str(caught.value)) < 400  # there are more than 500 names
    with pytest.raises(ConfigError, match="workers must be 1"):
        search(workers=0)
    with pytest.raises(ConfigError, match="4 indices below 5"):
        search(start=(0, 0, 0, 5))
    with pytest.raises(ConfigError, match="4 indices below 5"):
        search().tell([(0, 0)], [1.0])
