from __future__ import annotations

import pickle
import warnings

import numpy as np
import pytest

pytest.importorskip("cma")

from promptfed.blackbox.search.cma_es import PATIENCE, CmaEs, Normal
from promptfed.errors import ConfigError
from promptfed.seeding import numpy_stream


def search(d=20, sigma=1.0, seed=7, start=3.0, **options):
    return CmaEs(np.full(d, start), sigma, numpy_stream(seed, "search"), **options)


def sphere(x):
    return float(x @ x)


def generations(es, count, objective=sphere):
    for _ in range(count):
        candidates = es.ask()
        es.tell(candidates, [objective(x) for x in candidates])
    return es


def some_covariance(d, seed=1):
    root = np.random.default_rng(seed).normal(size=(d, d))
    return root @ root.T + np.eye(d)


@pytest.mark.parametrize("options", [{}, {"deviations": np.linspace(0.5, 2, 20)}, {"covariance": some_covariance(20)}])
def test_the_sphere_goes_down(options):
    es = search(**options)
    assert sphere(es.best()) == pytest.approx(180)
    generations(es, 150)
    assert sphere(es.best()) < 1.0


@pytest.mark.parametrize("options", [{}, {"deviations": np.ones(6)}, {"covariance": some_covariance(6)}])
def test_equal_streams_ask_the_same_and_others_do_not(options):
    one, same, other = (generations(search(6, seed=seed, **options), 3) for seed in (7, 7, 8))
    assert np.array_equal(one.ask(), same.ask())
    assert not np.isin(one.ask(), other.ask()).any()


@pytest.mark.parametrize("d", [1, 2, 5])
@pytest.mark.parametrize("popsize", [2, 3, 4, 5, 7])
def test_tiny_populations_and_one_dimension_work(d, popsize):
    for options in ({}, {"deviations": np.ones(d)}):
        es = generations(search(d, popsize=popsize, **options), 80)
        assert sphere(es.best()) < 0.5 * 9 * d


def test_a_population_of_one_cannot_be_ranked():
    with pytest.raises(ConfigError, match="popsize must be 2 or more, not 1"):
        search(popsize=1)


def test_candidates_are_drawn_from_the_given_distribution():
    covariance, deviations = some_covariance(3), np.array([0.1, 1.0, 10.0])
    for options, expected in (
        ({"covariance": covariance}, covariance),
        ({"deviations": deviations}, np.diag(deviations**2)),
        ({}, np.eye(3)),
    ):
        es = search(3, sigma=0.5, popsize=20000, **options)
        points = np.array(es.ask())
        scale = np.sqrt(np.outer(np.diag(expected), np.diag(expected)))
        assert np.abs(points.mean(axis=0) - 3).max() < 0.02 * scale.max()
        assert np.abs(np.cov(points.T) / 0.25 - expected).max() / scale.max() < 0.03
        assert es.deviations == pytest.approx(np.sqrt(np.diag(expected)), rel=1e-3)
        assert es.sigma == 0.5
        assert np.array_equal(es.mean, np.full(3, 3.0))
    assert search(3, covariance=covariance).covariance == pytest.approx(covariance, rel=1e-3)


def test_the_whitened_search_moves_as_the_plain_one_in_coordinates_of_its_own():
    """CMA-ES does not see linear maps: f(x) searched from C is f(start + A y) searched from the identity."""
    covariance = some_covariance(4)
    root = np.linalg.cholesky(covariance)
    start = np.full(4, 3.0)
    white = generations(search(4, covariance=covariance), 10)
    plain = generations(search(4, start=0.0), 10, lambda y: sphere(start + root @ y))
    assert white.mean == pytest.approx(start + root @ plain.mean, rel=1e-9)
    assert white.sigma == pytest.approx(plain.sigma, rel=1e-9)
    assert white.covariance == pytest.approx(root @ plain.covariance @ root.T, rel=1e-9)
    assert white.deviations == pytest.approx(np.sqrt(np.diag(white.covariance)), rel=1e-12)


def test_the_kind_of_covariance_follows_what_is_given_and_the_dimension():
    assert not search(200).diagonal
    assert search(201).diagonal
    assert search(3, deviations=np.ones(3)).diagonal
    assert not search(3, covariance=np.eye(3)).diagonal
    with pytest.raises(ConfigError, match="read deviations"):
        search(201).covariance.mean()
    with pytest.raises(ConfigError, match="not both"):
        search(3, deviations=np.ones(3), covariance=np.eye(3))
    with pytest.raises(ConfigError, match="positive definite"):
        search(2, covariance=-np.eye(2))
    with pytest.raises(ConfigError, match="2 positive finite"):
        search(2, deviations=np.zeros(2))
    with pytest.raises(ConfigError, match="sigma must be positive"):
        search(2, sigma=0.0)


def test_diagonal_search_learns_the_scales():
    es = generations(search(5, deviations=np.ones(5)), 150, lambda x: float(x @ (np.array([1, 1, 1, 1, 1e4]) * x)))
    assert es.deviations[:4].min() > 5 * es.deviations[4]


def test_full_search_learns_the_correlation():
    es = generations(search(2), 40, lambda x: (x[0] - x[1]) ** 2 * 1e4 + (x[0] + x[1]) ** 2)
    c = es.covariance
    assert c[0, 1] / np.sqrt(c[0, 0] * c[1, 1]) > 0.9


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_counts_as_the_worst(bad):
    one, other = search(4), search(4)
    for _ in range(20):
        candidates = one.ask()
        values = [sphere(x) for x in candidates]
        worst = int(np.argmax(values))
        one.tell(candidates, [bad if i == worst else value for i, value in enumerate(values)])
        other.tell(other.ask(), values)
        assert np.array_equal(one.mean, other.mean)
        assert one.sigma == other.sigma


@pytest.mark.parametrize("options", [{"d": 4, "popsize": 3}, {"d": 4, "popsize": 8}, {"d": 300, "popsize": 6}])
def test_a_generation_without_a_finite_fitness_moves_nothing(options):
    es = generations(search(**options), 3)
    mean, sigma = es.mean, es.sigma
    for _ in range(PATIENCE + 1):
        assert not es.stop()
        es.tell(es.ask(), [float("nan")] * es.popsize)
    assert np.array_equal(es.mean, mean)
    assert es.sigma == sigma
    assert es.stop() == {"no finite fitness": PATIENCE + 1}
    generations(es, 60)
    assert not es.stop()
    assert sphere(es.mean) < sphere(mean)


def test_flat_fitness_is_borne_for_a_while_and_then_a_reason_to_stop():
    es = search(10)
    for _ in range(PATIENCE):
        generations(es, 1, lambda x: 0.5)
        assert not es.stop()
    assert np.isfinite(es.mean).all()
    assert 0 < es.sigma < 100
    generations(es, 1, lambda x: 0.5)
    assert "tolflatfitness" in es.stop()


def test_it_stops_when_there_is_nothing_left_to_gain():
    es = search(3)
    assert es.stop() == {}
    while not es.stop():
        generations(es, 1)
    assert sphere(es.mean) < 1e-15


HIGH = {"d": 320, "popsize": 8}  # where sigma adapts by two points, which pycma must be told first


@pytest.mark.parametrize("options", [{"d": 6}, {"d": 6, "popsize": 4}, HIGH, {"d": 6, "step_size": "tpa"}])
def test_evaluations_may_come_in_any_portions_and_any_order(options):
    whole, single, shuffled = search(**options), search(**options), search(**options)
    for _ in range(6):
        generations(whole, 1)
        for _ in range(single.popsize):
            (x,) = single.ask(1)
            single.tell([x], [sphere(x)])
        candidates = shuffled.ask()[::-1]
        shuffled.tell(candidates, [sphere(x) for x in candidates])
    for other in (single, shuffled):
        assert np.array_equal(whole.mean, other.mean)
        assert whole.sigma == other.sigma


@pytest.mark.parametrize("options", [{"d": 6}, HIGH])
def test_candidates_that_were_asked_for_in_vain_come_again(options):
    whole, lossy = search(**options), search(**options)
    for _ in range(5):
        generations(whole, 1)
        candidates = lossy.ask()
        mean = lossy.mean
        lossy.tell(candidates[3:], [sphere(x) for x in candidates[3:]])
        assert np.array_equal(lossy.mean, mean)
        again = lossy.ask()
        assert np.array_equal(again, candidates[:3])
        lossy.tell(again, [sphere(x) for x in again])
    assert np.array_equal(whole.mean, lossy.mean)


@pytest.mark.parametrize("options", [{"d": 3, "popsize": 3}, {"d": 3, "popsize": 9}, HIGH])
def test_more_candidates_than_a_generation_make_one_generation(options):
    es = search(**options)
    before = sphere(es.mean)
    for _ in range(40):
        candidates = es.ask(2 * es.popsize + 1)
        assert len({x.tobytes() for x in candidates}) == 2 * es.popsize + 1
        es.tell(candidates, [sphere(x) for x in candidates])
    assert sphere(es.mean) < before / 2


def test_two_points_lost_for_good_do_not_hold_up_the_others():
    es = generations(search(**HIGH), 5)
    mean = es.mean
    points = es.ask(2 * es.popsize)[2:]
    es.tell(points, [sphere(x) for x in points])
    assert not np.array_equal(es.mean, mean)
    generations(es, 3)


def test_sigma_adapts_by_two_points_in_high_dimensions_and_faster_so():
    auto, csa = search(500, popsize=6), search(500, popsize=6, step_size="csa")
    assert auto.two_point
    assert not csa.two_point
    assert sphere(generations(auto, 300).mean) < 0.5 * sphere(generations(csa, 300).mean)
    assert not search(299).two_point
    assert not search(500, popsize=4).two_point
    with pytest.raises(ConfigError, match="popsize of 5 or more, not 4"):
        search(500, popsize=4, step_size="tpa")
    with pytest.raises(ConfigError, match="unknown step_size"):
        search(5, step_size="CSA-like")


@pytest.mark.parametrize("options", [{}, {"covariance": some_covariance(3)}])
def test_points_that_were_never_asked_for_are_taken_in(options):
    es = search(3, popsize=6, **options)
    points = [np.full(3, 2.0) + 0.1 * i for i in range(6)]
    es.tell(points, [sphere(x) for x in points])
    assert (es.mean < 3).all()
    with pytest.raises(ValueError, match="shape"):
        es.tell([np.zeros(4)], [0.0])


def test_candidates_belong_to_the_caller():
    es, other = search(4), search(4)
    candidates = es.ask()
    values = [sphere(x) for x in candidates]
    other.tell(other.ask(), values)
    copies = [x.copy() for x in candidates]
    es.mean[:] = 0
    es.best()[:] = 0
    es.tell(candidates, values)
    assert np.array_equal(candidates, copies)
    assert np.array_equal(es.mean, other.mean)


def test_no_signals_file_is_read_and_no_warning_given(tmp_path):
    signals = tmp_path / "cma_signals.in"
    signals.write_text("{'timeout': 0}")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for d in (1, 4, 300):
            es = generations(search(d), 8)
            assert es.stop() == {}
    signals.unlink()


def test_the_source_of_randomness_can_be_pickled():
    draws = pickle.loads(pickle.dumps(Normal(np.random.default_rng(3))))(2, 3)
    assert np.array_equal(draws, np.random.default_rng(3).standard_normal((2, 3)))
