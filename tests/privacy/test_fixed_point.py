"""Fixed point: bits that can be counted by hand, and sums that are right on average and never far off."""

from __future__ import annotations

import numpy as np
import pytest

from promptfed.errors import SecureSumError
from promptfed.privacy.fixed_point import FixedPoint

KEY = bytes(range(32))


@pytest.mark.parametrize(
    ("clients", "weight", "bits"), [(1, 1, 31), (3, 1, 29), (4, 1, 29), (5, 1, 28), (10, 1, 27), (100, 1, 24),
                                    (1000, 1, 21), (10, 100, 21)],
)  # fmt: skip
def test_bits_are_those_that_the_sum_leaves(clients, weight, bits):
    assert FixedPoint(1.0, clients, weight).fraction_bits == bits


@pytest.mark.parametrize("clients", [1, 3, 4, 16])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_largest_sum_does_not_wrap_around(clients, sign):
    fixed = FixedPoint(0.5, clients)
    words = sum(fixed.encode(np.full(3, 0.5 * sign), 1, bytes([k] * 32)) for k in range(clients))
    assert fixed.decode(words, clients) == pytest.approx(np.full(3, 0.5 * sign * clients), rel=1e-12)


@pytest.mark.parametrize("clients", [3, 10, 30])
def test_a_sum_is_off_by_no_more_than_the_bound(clients):
    stream = np.random.default_rng(clients)
    fixed = FixedPoint(0.1, clients)
    values = stream.uniform(-0.1, 0.1, (clients, 2000))
    words = sum(fixed.encode(row, 1, stream.bytes(32)) for row in values)
    error = np.abs(fixed.decode(words, clients) - values.sum(0)).max()
    assert 0 < error <= fixed.error_bound == clients * 0.1 / (2**fixed.fraction_bits - 1)


def test_weights_multiply():
    fixed = FixedPoint(1.0, 2, 50)
    words = fixed.encode(np.array([0.25, -1.0]), 3, KEY) + fixed.encode(np.array([0.5, 1.0]), 50, bytes(32))
    assert fixed.decode(words, 53) == pytest.approx(np.array([25.75, 47.0]), abs=fixed.error_bound)


def test_rounding_is_right_on_average():
    fixed = FixedPoint(255.0, 1, 2**23)  # eight bits: a step is 1
    words = fixed.encode(np.full(40_000, 0.25), 1, KEY)
    assert set(words.tolist()) == {0, 1}
    assert words.mean() == pytest.approx(0.25, abs=4 * np.sqrt(0.25 * 0.75 / 40_000))
    below = fixed.encode(np.full(40_000, -0.25), 1, KEY).view(np.int32)
    assert set(below.tolist()) == {-1, 0}
    assert below.mean() == pytest.approx(-0.25, abs=4 * np.sqrt(0.25 * 0.75 / 40_000))


def test_what_is_beyond_the_bound_is_cut_and_counted():
    fixed = FixedPoint(1.0, 10)
    values = np.array([3.0, -1.5, 1.0, 0.0])
    assert fixed.beyond(values) == 2
    assert fixed.decode(fixed.encode(values, 1, KEY), 1) == pytest.approx(np.array([1.0, -1.0, 1.0, 0.0]))


def test_a_sum_that_cannot_be_is_refused():
    fixed = FixedPoint(1.0, 3)
    with pytest.raises(SecureSumError, match="masks are left in it"):
        fixed.decode(np.array([0, 2**31 - 1], dtype=np.uint32), 3)
    with pytest.raises(SecureSumError, match="masks are left in it"):
        fixed.decode(fixed.encode(np.ones(2), 1, KEY) * np.uint32(3), 2)


@pytest.mark.parametrize(
    ("values", "weight", "why"),
    [([np.nan], 1, "not finite"), ([np.inf], 1, "not finite"), ([1.0], 0, "a weight of 0"), ([1.0], 6, "1 to 5 are")],
)
def test_what_cannot_be_encoded(values, weight, why):
    with pytest.raises(SecureSumError, match=why):
        FixedPoint(1.0, 3, 5).encode(np.array(values), weight, KEY)


@pytest.mark.parametrize(
    ("options", "why"),
    [((0.0, 3), "is none"), ((np.inf, 3), "is none"), ((1.0, 0), "is none"), ((1.0, 10, 2**20), "leave 7 of 32 bits")],
)
def test_what_is_no_sum(options, why):
    with pytest.raises(SecureSumError, match=why):
        FixedPoint(*options)
