"""A secure sum of simulated clients: the plain sum within its bound, and figures that can be counted."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from promptfed.errors import SecureSumError
from promptfed.privacy.fixed_point import FixedPoint
from promptfed.privacy.secure_round import secure_sum_of

BROADCAST = bytes(range(32))


def changes(count: int, size: int) -> dict[int, np.ndarray]:
    stream = np.random.default_rng(size)
    return {3 * client: stream.normal(0, 0.02, size) for client in range(count)}


@pytest.mark.parametrize("lost", [(), {3}, {0, 6, 9}])
def test_it_is_the_sum_of_those_who_are_left(lost):
    each = changes(10, 50)
    done = secure_sum_of(each, BROADCAST, 0.2, lost)
    assert done.clients == tuple(sorted(each.keys() - lost))
    assert (done.weight, done.cut) == (10 - len(lost), 0)
    expected = sum(each[client] for client in done.clients)
    assert np.abs(done.values - expected).max() <= FixedPoint(0.2, 10).error_bound


def test_bytes_are_few_beside_a_prompt_and_counted():
    """Up: 128 of keys, 94 for each of nine peers, 32 of a digest, the words, 64 of a signature, 33 for each of ten."""
    done = secure_sum_of(changes(10, 8192), BROADCAST, 0.2, {27})
    plain = 4 * 8192
    body = 128 + 9 * (2 * 33 + 28) + 32 + plain + 64 + 10 * 33
    assert body < done.bytes_up < body + 300
    assert done.bytes_up < 1.05 * plain
    assert done.bytes_down < 0.1 * plain
    assert done.client_seconds > 0 < done.server_seconds


def test_weights_and_cut_values():
    each = {client: np.array([client / 10, 5.0]) for client in range(5)}
    done = secure_sum_of(each, BROADCAST, 1.0, {4}, weights=dict(enumerate([1, 2, 3, 4, 5])), max_weight=5)
    assert (done.weight, done.cut) == (10, 4)
    assert done.values == pytest.approx(np.array([0.1 * 2 + 0.2 * 3 + 0.3 * 4, 10.0]), abs=1e-6)


@pytest.mark.parametrize(
    ("each", "options", "why"),
    [
        ({}, {}, "no changes to sum"),
        (changes(2, 4), {}, "needs 3 clients or more"),
        (changes(5, 4), {"lost": {0, 3}}, "3 of 5 clients are left, and it needs 4"),
        (changes(5, 4), {"lost": set(range(15))}, "0 of 5 clients are left"),
        ({**changes(4, 4), 1: np.zeros(5)}, {}, "are not the 4 of this sum"),
        ({**changes(4, 4), 1: np.full(4, np.inf)}, {}, "not finite"),
    ],
)
def test_what_cannot_be_summed(each, options, why):
    with pytest.raises(SecureSumError, match=why):
        secure_sum_of(each, BROADCAST, 1.0, **options)


def test_it_does_not_repeat_itself_beyond_rounding():
    """Masks and rounding come from the operating system: no seed of a run gives them again."""
    each = changes(3, 200)
    one, other = (secure_sum_of(each, BROADCAST, 0.5).values for _ in range(2))
    assert 0 < np.abs(one - other).max() <= 2 * FixedPoint(0.5, 3).error_bound


def test_the_example_of_the_page_runs(capsys):
    page = (Path(__file__).parents[2] / "docs" / "secure_aggregation.md").read_text()
    [code] = re.findall(r"```python\n(.*?)```", page, re.S)
    exec(compile(code, "docs/secure_aggregation.md", "exec"), {"__name__": "page"})
    assert capsys.readouterr().out.startswith("(0, 1, 2, 4, 5, 6, 7, 8, 9) [")
