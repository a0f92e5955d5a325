from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from promptfed.blackbox.search.cma_update import Distribution, Rates, log_rank_weights, update, weights_by_rank
from promptfed.errors import ConfigError


def sphere(x):
    return float(x @ x)


def some_covariance(d, seed=1):
    root = np.random.default_rng(seed).normal(size=(d, d))
    return root @ root.T + np.eye(d)


def lived(d, seed=2, full=True):
    """A distribution with a past: paths that are not zero."""
    draw = np.random.default_rng(seed)
    shape = {"covariance": some_covariance(d)} if full else {"deviations": draw.uniform(0.5, 2, d)}
    start = Distribution.start(draw.normal(size=d), 0.7, **shape)
    return replace(start, path_sigma=draw.normal(size=d), path_c=draw.normal(size=d), generation=4)


def assert_same(one, other, **tolerance):
    one, other = one.arrays(), other.arrays()
    assert one.keys() == other.keys()
    for name in one:
        assert one[name] == pytest.approx(other[name], **tolerance), name


def test_log_rank_weights_by_hand():
    assert log_rank_weights(1).tolist() == [1.0]
    assert log_rank_weights(2).tolist() == [1.0, 0.0]
    assert log_rank_weights(3).tolist() == [1.0, 0.0, 0.0]
    a, b = math.log(2.5), math.log(2.5) - math.log(2)
    assert log_rank_weights(4) == pytest.approx([a / (a + b), b / (a + b), 0, 0])
    for k in range(1, 40):
        weights = log_rank_weights(k)
        assert weights.sum() == pytest.approx(1)
        assert (np.diff(weights) <= 0).all()
        assert (weights > 0).sum() == max(1, k // 2)
    with pytest.raises(ValueError, match="one point at least"):
        log_rank_weights(0)


def test_weights_by_rank_follow_fitness_and_equals_share():
    first, second = log_rank_weights(4)[:2]
    assert weights_by_rank([3.0, 0.1, 2.0, 9.0]) == pytest.approx([0, first, second, 0])
    assert weights_by_rank([3.0, 2.0, 2.0, 9.0]) == pytest.approx([0, 0.5, 0.5, 0])
    assert weights_by_rank([1.0, 2.0, 2.0, 2.0]) == pytest.approx([first, second / 3, second / 3, second / 3])
    assert weights_by_rank([7.0] * 5) == pytest.approx([0.2] * 5)
    assert weights_by_rank([float("nan"), 5.0]).tolist() == [0.0, 1.0]
    assert weights_by_rank([float("nan")]).tolist() == [1.0]


def test_one_update_in_two_dimensions_by_hand():
    """The tutorial's equations, written out for d = 2 and C = [[2, 1], [1, 2]]: eigenvalues 3 and 1."""
    before = replace(
        Distribution.start(np.array([1.0, -1.0]), 0.5, covariance=np.array([[2.0, 1.0], [1.0, 2.0]])),
        path_sigma=np.array([0.2, -0.1]),
        path_c=np.array([0.3, 0.4]),
        generation=3,
    )
    points, weights = np.array([[1.5, -1.0], [1.0, 0.0]]), np.array([0.75, 0.25])
    after = update(before, points, weights)

    mueff = 1 / (0.75**2 + 0.25**2)  # 1.6
    cs, cc = (mueff + 2) / (2 + mueff + 5), (4 + mueff / 2) / (2 + 4 + 2 * mueff / 2)
    c1 = 2 / (3.3**2 + mueff)
    cmu = 2 * (0.25 + mueff + 1 / mueff - 2) / (16 + mueff)
    y1, y2 = np.array([1.0, 0.0]), np.array([0.0, 2.0])
    yw = np.array([0.75, 0.5])
    # C^(-1/2) = (3^(-1/2) (1,1)(1,1)^T + (1,-1)(1,-1)^T) / 2
    u, v = 1 / math.sqrt(3), 1.0
    whitened = np.array([(u + v) * 0.75 + (u - v) * 0.5, (u - v) * 0.75 + (u + v) * 0.5]) / 2
    ps = (1 - cs) * np.array([0.2, -0.1]) + math.sqrt(cs * (2 - cs) * mueff) * whitened
    chi = math.sqrt(2) * (1 - 1 / 8 + 1 / 84)
    assert np.linalg.norm(ps) / math.sqrt(1 - (1 - cs) ** 8) < (1.4 + 2 / 3) * chi  # so p_c moves
    pc = (1 - cc) * np.array([0.3, 0.4]) + math.sqrt(cc * (2 - cc) * mueff) * yw
    c = (1 - c1 - cmu) * before.covariance + c1 * np.outer(pc, pc)
    c = c + cmu * (0.75 * np.outer(y1, y1) + 0.25 * np.outer(y2, y2))

    assert after.mean == pytest.approx([1.375, -0.75], abs=1e-15)
    assert after.path_sigma == pytest.approx(ps, rel=1e-13)
    assert after.path_c == pytest.approx(pc, rel=1e-13)
    assert after.covariance == pytest.approx(c, rel=1e-13)
    assert after.sigma == pytest.approx(0.5 * math.exp(cs / (1 + cs) * (np.linalg.norm(ps) / chi - 1)), rel=1e-13)
    assert after.generation == 4


def test_a_long_path_stalls_the_other_one_and_keeps_the_variance():
    before = replace(lived(2), path_sigma=np.full(2, 9.0))
    points, weights = before.mean + np.ones((1, 2)), np.ones(1)
    rates = Rates.default(2, 1.0, diagonal=False)
    after = update(before, points, weights)
    assert after.path_c == pytest.approx((1 - rates.c_c) * before.path_c)
    y = np.ones(2) / before.sigma
    keep = 1 - rates.c_1 - rates.c_mu + rates.c_1 * rates.c_c * (2 - rates.c_c)
    c = keep * before.covariance + rates.c_1 * np.outer(after.path_c, after.path_c) + rates.c_mu * np.outer(y, y)
    assert after.covariance == pytest.approx(c)


@pytest.mark.parametrize("popsize", [6, 11])
def test_it_is_pycma_without_negative_weights(popsize):
    cma = pytest.importorskip("cma")
    from promptfed.blackbox.search.cma_es import Normal

    d = 5
    options = {
        "popsize": popsize, "seed": np.nan, "randn": Normal(np.random.default_rng(3)), "verbose": -9, "verb_log": 0,
        "CMA_active": False, "CMA_mirrors": 0, "updatecovwait": 0,
    }  # fmt: skip
    es = cma.CMAEvolutionStrategy(np.full(d, 2.0), 0.5, options)
    ours = Distribution.start(np.full(d, 2.0), 0.5, covariance=np.eye(d))
    default = Rates.default(d, es.sp.weights.mueff, diagonal=False)
    assert default.c_c == pytest.approx(es.sp.cc)
    assert default.c_1 == pytest.approx(es.sp.c1)
    assert default.c_mu == pytest.approx(es.sp.cmu)
    for generation in range(8):
        points = es.ask()
        fitness = [sphere(x * np.arange(1, d + 1)) for x in points]
        weights = weights_by_rank(fitness)
        assert np.sort(weights)[::-1] == pytest.approx(np.maximum(es.sp.weights, 0), abs=1e-15)
        es.tell(points, fitness)
        # pycma's CSA has other constants by now: (mueff + 2)/(d + mueff + 3) and another damping.
        rates = replace(default, c_sigma=es.adapt_sigma.cs, d_sigma=es.adapt_sigma.damps)
        ours = update(ours, points, weights, rates=rates)
        # pycma starts from eigenvalues that differ by 1e-4, to tell them apart
        assert ours.mean == pytest.approx(es.mean, rel=0, abs=1e-12 if generation == 0 else 1e-3)
        assert ours.path_c == pytest.approx(es.pc, rel=1e-3, abs=1e-3)
        assert ours.path_sigma == pytest.approx(es.adapt_sigma.ps, rel=1e-3, abs=1e-3)
        assert ours.sigma == pytest.approx(es.sigma, rel=1e-3)
        assert ours.covariance == pytest.approx(es.sm.covariance_matrix, rel=1e-2, abs=1e-3)


@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize("k", [1, 2, 3, 10])
def test_the_order_of_points_changes_no_bit(full, k):
    draw = np.random.default_rng(5)
    before = lived(7, full=full)
    points, weights = draw.normal(size=(k, 7)), draw.uniform(size=k)
    if k > 2:
        weights[0] = weights[1]  # equal weights too
    after = update(before, points, weights)
    assert after.generation == 5
    assert all(np.isfinite(value).all() for value in after.arrays().values())
    for _ in range(5):
        order = draw.permutation(k)
        again = update(before, points[order], weights[order])
        assert all(np.array_equal(value, again.arrays()[name]) for name, value in after.arrays().items())


def test_weights_need_not_be_scaled_and_a_point_without_weight_is_no_point():
    before = lived(3)
    points = np.random.default_rng(6).normal(size=(3, 3))
    after = update(before, points, np.array([2.0, 1.0, 0.0]))
    assert_same(after, update(before, points[:2], np.array([2 / 3, 1 / 3])), rel=1e-14)


def test_a_linear_map_of_space_maps_the_full_update():
    before, d = lived(4), 4
    turn = np.linalg.qr(np.random.default_rng(7).normal(size=(d, d)))[0]
    points, weights = np.random.default_rng(8).normal(size=(5, d)), log_rank_weights(5)
    after = update(before, points, weights)
    turned = update(
        replace(
            before,
            mean=turn @ before.mean,
            covariance=turn @ before.covariance @ turn.T,
            path_sigma=turn @ before.path_sigma,
            path_c=turn @ before.path_c,
        ),
        points @ turn.T,
        weights,
    )
    assert turned.sigma == pytest.approx(after.sigma)
    assert turned.mean == pytest.approx(turn @ after.mean)
    assert turned.covariance == pytest.approx(turn @ after.covariance @ turn.T)
    assert turned.path_sigma == pytest.approx(turn @ after.path_sigma)


def test_the_diagonal_update_is_the_diagonal_of_the_full_one_at_equal_rates():
    small = lived(4, full=False)
    large = replace(small, deviations=None, covariance=np.diag(small.deviations**2))
    rates = Rates.default(4, 3.0, diagonal=False)
    points = np.random.default_rng(9).normal(size=(5, 4))
    diagonal, full = (update(each, points, log_rank_weights(5), rates=rates) for each in (small, large))
    assert diagonal.mean == pytest.approx(full.mean)
    assert diagonal.sigma == pytest.approx(full.sigma)
    assert diagonal.path_sigma == pytest.approx(full.path_sigma)
    assert diagonal.deviations**2 == pytest.approx(np.diag(full.covariance))


def test_a_diagonal_learns_faster_by_a_third_of_d_plus_two():
    for d, mueff in ((10, 3.0), (500, 2.6)):
        full, diagonal = (Rates.default(d, mueff, diagonal=kind) for kind in (False, True))
        assert diagonal.c_1 / full.c_1 == pytest.approx((d + 2) / 3)
        assert diagonal.c_mu / full.c_mu == pytest.approx((d + 2) / 3)
        assert diagonal.c_sigma == full.c_sigma
    for d in range(1, 6):
        for mueff in (1.0, 1.5, 50.0, 1e6):
            for diagonal in (False, True):
                rates = Rates.default(d, mueff, diagonal=diagonal)
                assert 0 < rates.c_1 <= 1
                assert rates.c_mu >= 0
                assert rates.c_1 + rates.c_mu <= 1 + 1e-15
                assert 0 < rates.c_sigma < 1


def test_the_floor_holds_and_so_does_the_ceiling():
    """FedBPT's public code undoes its floor; here it is the last word."""
    falling = Distribution.start(np.zeros(20), 0.6)
    for _ in range(50):
        falling = update(falling, falling.mean[None], np.ones(1), floor=0.5)  # a path of length 0: sigma falls
        assert falling.sigma >= 0.5
    assert falling.sigma == 0.5
    rising = Distribution.start(np.zeros(20), 0.6)
    for _ in range(50):
        rising = update(rising, rising.mean[None] + 5, np.ones(1), most=2.0)
        assert rising.sigma <= 2.0
    assert rising.sigma == 2.0
    assert update(Distribution.start(np.zeros(20), 0.1), np.zeros((1, 20)), np.ones(1), floor=0.5).sigma == 0.5
    with pytest.raises(ConfigError, match="0 <= floor <= most"):
        update(falling, falling.mean[None], np.ones(1), floor=2.0, most=1.0)


def test_sigma_grows_by_a_factor_of_e_at_most():
    start = Distribution.start(np.zeros(3), 1.0)
    assert update(start, np.full((1, 3), 1e6), np.ones(1)).sigma == pytest.approx(math.e)


@pytest.mark.parametrize("full", [True, False])
def test_without_selection_the_path_stays_standard_normal(full):
    """What CSA stands on: points from the distribution itself, ranked by chance, leave ``E |p|^2 = d``."""
    draw, d, k = np.random.default_rng(10), 6, 5
    now = lived(d, full=full)
    frozen = replace(Rates.default(d, 3.0, diagonal=True), d_sigma=1e9, c_1=0.0, c_mu=0.0)
    root = np.linalg.cholesky(now.covariance) if full else np.diag(now.deviations)
    lengths = []
    for _ in range(3000):
        points = now.mean + now.sigma * draw.normal(size=(k, d)) @ root.T
        now = update(now, points, log_rank_weights(k), rates=frozen)
        lengths.append(now.path_sigma @ now.path_sigma)
    assert np.mean(lengths) == pytest.approx(d, rel=0.08)


@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize("k", [2, 8])
def test_it_minimises_when_used_as_a_whole_search(full, k):
    draw, scales = np.random.default_rng(11), np.array([1.0, 1.0, 3.0, 10.0])
    now = Distribution.start(np.full(4, 3.0), 1.0, **({"covariance": np.eye(4)} if full else {}))
    for _ in range(300 if k > 2 else 3000):
        root = np.linalg.cholesky(now.covariance) if full else np.diag(now.deviations)
        points = now.mean + now.sigma * draw.normal(size=(k, 4)) @ root.T
        now = update(now, points, weights_by_rank([sphere(scales * x) for x in points]))
    assert sphere(scales * now.mean) < 1e-3


@pytest.mark.parametrize("full", [True, False])
def test_it_goes_through_a_dict_of_arrays_unchanged(full):
    before = lived(5, full=full)
    arrays = before.arrays()
    assert all(isinstance(value, np.ndarray) for value in arrays.values())
    assert set(arrays) == {
        "mean",
        "sigma",
        "covariance" if full else "deviations",
        "path_sigma",
        "path_c",
        "generation",
    }
    for form in (arrays, {name: np.atleast_1d(value) for name, value in arrays.items()}):
        again = Distribution.from_arrays(form)
        assert again.generation == 4
        assert type(again.sigma) is float
        points = np.random.default_rng(12).normal(size=(3, 5))
        one, other = (update(each, points, log_rank_weights(3)).arrays() for each in (before, again))
        assert all(np.array_equal(one[name], other[name]) for name in one)


def test_a_distribution_has_one_shape():
    assert Distribution.start(np.zeros(3), 1).deviations.tolist() == [1, 1, 1]
    with pytest.raises(ConfigError, match="not both"):
        Distribution.start(np.zeros(2), 1.0, deviations=np.ones(2), covariance=np.eye(2))


def test_nothing_that_is_handed_in_is_written_to():
    before = lived(3)
    copies = {name: value.copy() for name, value in before.arrays().items()}
    points, weights = np.ones((2, 3)), np.array([3.0, 1.0])
    update(before, points, weights)
    assert all(np.array_equal(value, copies[name]) for name, value in before.arrays().items())
    assert (points == 1).all()
    assert weights.tolist() == [3.0, 1.0]


def test_points_and_weights_that_make_no_sense_are_refused():
    before = lived(3)
    for points, weights in (
        (np.ones((2, 4)), np.ones(2)),
        (np.ones((2, 3)), np.ones(3)),
        (np.ones((0, 3)), np.ones(0)),
    ):
        with pytest.raises(ValueError, match="do not fit"):
            update(before, points, weights)
    with pytest.raises(ValueError, match="points must be finite"):
        update(before, np.full((1, 3), np.nan), np.ones(1))
    for weights in (np.zeros(2), np.array([1.0, -0.1]), np.array([1.0, np.nan])):
        with pytest.raises(ValueError, match="weights must be finite"):
            update(before, np.ones((2, 3)), weights)
