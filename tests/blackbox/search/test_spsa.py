from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from promptfed.blackbox.search.spsa import Spsa, estimate
from promptfed.errors import ConfigError
from promptfed.seeding import numpy_stream

HESSIAN = np.array([[3.0, 1.0, 0.5], [1.0, 2.0, -0.3], [0.5, -0.3, 1.0]])
SLOPE = np.array([1.0, -2.0, 0.7])


def quadratic(x):
    return float(x @ HESSIAN @ x / 2 + SLOPE @ x)


def probed(objective, x, directions, c):
    plus, minus = (np.array([objective(x + sign * c * d) for d in directions]) for sign in (1, -1))
    return estimate(plus, minus, directions, c)


def steps(searcher, objective, count):
    for _ in range(count):
        points = searcher.ask()
        searcher.tell(points, [objective(x) for x in points])
    return searcher


def test_the_mean_over_all_directions_is_the_gradient_of_a_quadratic():
    x, every = np.array([0.3, -1.0, 2.0]), np.array(list(product((-1.0, 1.0), repeat=3)))
    for c in (1e-3, 0.5, 10.0):  # the two sides cancel the curvature, whatever c
        assert probed(quadratic, x, every, c) == pytest.approx(HESSIAN @ x + SLOPE, rel=1e-9)


def test_random_directions_average_to_the_gradient(stream):
    searcher = Spsa(np.array([0.3, -1.0, 2.0]), stream, a=1.0, c=0.1, probes=20000)
    points = searcher.ask()
    searcher.tell(points, [quadratic(x) for x in points])
    found = (np.array([0.3, -1.0, 2.0]) - searcher.theta) / 1.0  # the first step is a g
    assert found == pytest.approx(HESSIAN @ [0.3, -1.0, 2.0] + SLOPE, abs=0.15)


def test_the_slope_of_a_linear_function_is_exact_along_each_direction(stream):
    slope, x = stream.normal(size=50), stream.normal(size=50)
    for _ in range(5):
        direction = stream.choice([-1.0, 1.0], size=(1, 50))
        g = probed(lambda y: float(slope @ y), x, direction, 0.2)
        assert g @ direction[0] / 50 == pytest.approx(slope @ direction[0])
        assert np.abs(g) == pytest.approx(np.full(50, abs(slope @ direction[0])))


def test_points_come_in_pairs_around_theta_at_distance_c(stream):
    searcher = Spsa(np.array([1.0, 2.0, 3.0]), stream, a=0.1, c=0.25, probes=3)
    points = np.array(searcher.ask())
    assert points.shape == (6, 3)
    assert (points[::2] + points[1::2]) / 2 == pytest.approx(np.tile([1.0, 2.0, 3.0], (3, 1)))
    assert np.abs(points - [1, 2, 3]) == pytest.approx(np.full((6, 3), 0.25))
    assert len(searcher.ask(4)) == 4
    with pytest.raises(ValueError, match="in pairs"):
        searcher.ask(3)


def test_the_gains_are_spalls(stream):
    searcher = Spsa(np.zeros(2), stream, a=0.5, c=0.2, stability=9.0, k=31)
    assert searcher.a_k == pytest.approx(0.5 / 41**0.602)
    assert searcher.c_k == pytest.approx(0.2 / 32**0.101)
    steps(searcher, lambda x: 0.0, 1)
    assert searcher.k == 32


def test_one_corrected_step_by_hand(stream):
    theta, momentum = np.array([1.0, -1.0, 0.5]), np.array([0.2, 0.1, -0.4])
    searcher = Spsa(theta, stream, a=0.3, c=0.1, beta=0.9, momentum=momentum, k=2)
    plus, minus = searcher.ask()
    ahead = theta + 0.9 * momentum
    assert (plus + minus) / 2 == pytest.approx(ahead)
    direction = np.sign(plus - ahead)
    c_k, a_k = 0.1 / 3**0.101, 0.3 / 3**0.602
    g = (quadratic(plus) - quadratic(minus)) / (2 * c_k) * direction
    searcher.tell([plus, minus], [quadratic(plus), quadratic(minus)])
    assert searcher.momentum == pytest.approx(0.9 * momentum - a_k * g)
    assert searcher.theta == pytest.approx(theta + 0.9 * momentum - a_k * g)
    assert np.array_equal(searcher.best(), searcher.theta)


@pytest.mark.parametrize(("a", "beta"), [(0.1, 0.0), (0.02, 0.9)])
def test_a_quadratic_in_ten_dimensions_goes_down(a, beta):
    scales = np.linspace(1, 5, 10)

    def loss(x):
        return float(scales @ (x - 1) ** 2)

    searcher = Spsa(np.full(10, 4.0), numpy_stream(1, "spsa"), a=a, c=0.05, stability=20, beta=beta, clip=50.0)
    assert loss(searcher.best()) == pytest.approx(270)
    assert loss(steps(searcher, loss, 1500).best()) < 0.5


def test_equal_streams_search_the_same_and_others_do_not():
    one, same, other = (Spsa(np.zeros(8), numpy_stream(seed, "spsa"), a=0.1, c=0.1) for seed in (1, 1, 2))
    assert np.array_equal(steps(one, np.sum, 3).ask(), steps(same, np.sum, 3).ask())
    assert not np.array_equal(one.theta, steps(other, np.sum, 3).theta)


def test_the_gradient_is_clipped(stream):
    searcher = Spsa(np.zeros(4), stream, a=1.0, c=0.1, clip=0.5)
    steps(searcher, lambda x: 1e6 * float(x.sum()), 1)
    assert np.linalg.norm(searcher.theta) == pytest.approx(0.5)


def test_it_goes_on_from_its_arrays_with_the_same_bits():
    def loss(x):
        return float(x[:3] @ HESSIAN @ x[:3])

    options = {"a": 0.05, "c": 0.1, "beta": 0.8, "probes": 2}
    searcher = steps(Spsa(np.ones(3), numpy_stream(1, "a"), **options), loss, 5)
    arrays = searcher.arrays()
    resumed = Spsa(arrays["theta"], numpy_stream(1, "b"), momentum=arrays["momentum"], k=int(arrays["k"]), **options)
    searcher.stream = numpy_stream(1, "b")
    assert np.array_equal(steps(searcher, loss, 5).theta, steps(resumed, loss, 5).theta)
    assert resumed.k == 10


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_pair_that_is_not_finite_is_left_out(bad):
    one, other = (Spsa(np.ones(3), numpy_stream(4, "spsa"), a=0.1, c=0.1, probes=2) for _ in range(2))
    points, same = one.ask(), other.ask()
    values = [quadratic(x) for x in points]
    one.tell(points, [values[0], bad, values[2], values[3]])
    other.tell(same[2:], values[2:])  # lost on the way: the same
    assert np.array_equal(one.theta, other.theta)
    assert np.isfinite(one.theta).all()
    assert one.k == 1
    theta = one.theta
    one.tell(one.ask(), [bad] * 4)
    assert one.k == 1
    assert np.array_equal(one.theta, theta)


def test_flat_fitness_moves_nothing_but_momentum(stream):
    searcher = steps(Spsa(np.ones(3), stream, a=0.1, c=0.1, beta=0.5), lambda x: 0.25, 3)
    assert np.array_equal(searcher.theta, np.ones(3))
    assert searcher.stop() == {}


def test_the_order_of_points_does_not_matter_and_strangers_are_refused():
    one, other = (Spsa(np.ones(3), numpy_stream(5, "spsa"), a=0.1, c=0.1, probes=3) for _ in range(2))
    points, same = one.ask(), other.ask()[::-1]
    one.tell(points, [quadratic(x) for x in points])
    other.tell(same, [quadratic(x) for x in same])
    assert np.array_equal(one.theta, other.theta)
    with pytest.raises(ValueError, match="did not ask for"):
        one.tell(points, [0.0] * 6)


@pytest.mark.parametrize(
    "options",
    [{"a": 0.0}, {"c": float("nan")}, {"beta": 1.0}, {"probes": 0}, {"clip": -1.0}, {"momentum": np.zeros(2)}],
)
def test_options_that_make_no_sense_are_refused(options, stream):
    with pytest.raises(ConfigError):
        Spsa(np.zeros(3), stream, **{"a": 0.1, "c": 0.1, **options})
