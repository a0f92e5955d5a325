from __future__ import annotations

import numpy as np
import pytest

from promptfed.blackbox.search.base import check_told, finite_fitness, optional, ranks
from promptfed.errors import ConfigError

NAN, INF = float("nan"), float("inf")


def test_finite_fitness_stays_as_it_is():
    assert finite_fitness([3.0, -1.0, 2.0]).tolist() == [3.0, -1.0, 2.0]


def test_what_is_not_finite_is_worse_than_all_that_is_minus_infinity_too():
    assert finite_fitness([3.0, NAN, 1.0, INF, -INF]).tolist() == [3.0, 5.0, 1.0, 5.0, 5.0]  # 3 + (3 - 1)
    assert finite_fitness([-4.0, NAN]).tolist() == [-4.0, 0.0]  # one finite value has no range


def test_nothing_finite_is_all_equal():
    assert finite_fitness([NAN, INF, -INF]).tolist() == [0.0, 0.0, 0.0]


def test_the_replacement_is_finite_even_at_the_end_of_the_numbers():
    largest = np.finfo(np.float64).max
    assert np.isfinite(finite_fitness([-largest, largest, NAN])).all()
    assert finite_fitness([1e300, NAN])[1] > 1e300


def test_the_told_fitness_is_not_written_to():
    told = np.array([1.0, NAN])
    finite_fitness(told)
    assert np.isnan(told[1])


def test_equals_share_their_ranks_so_that_the_order_has_no_say():
    assert ranks([5.0, 1.0, 5.0, 0.0]).tolist() == [2.5, 1.0, 2.5, 0.0]
    assert ranks([NAN, 1.0, INF]).tolist() == [1.5, 0.0, 1.5]
    assert ranks([NAN, NAN]).tolist() == [0.5, 0.5]


def test_every_candidate_needs_a_fitness():
    check_told([1, 2], [0.0, 0.0])
    with pytest.raises(ValueError, match="2 candidates were told with 1 fitness"):
        check_told([1, 2], [0.0])


def test_a_missing_package_names_the_extra_that_brings_it():
    assert optional("numpy") is np
    with pytest.raises(ConfigError, match=r"pip install 'promptfed\[blackbox\]'"):
        optional("no_such_optimizer_package")
