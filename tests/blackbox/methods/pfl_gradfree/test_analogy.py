from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from promptfed.blackbox.methods.pfl_gradfree.analogy import NONE, compose, decompose, nearest


@pytest.fixture
def vectors():
    rows = np.random.default_rng(0).standard_normal((12, 6))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    rows[0] = 0
    return rows


def test_a_word_is_its_own_code(vectors):
    assert decompose(vectors[4], vectors, range(1, 12), range(1, 12)) == (4, NONE, NONE)
    np.testing.assert_allclose(compose((4, NONE, NONE), vectors), vectors[4])


def test_a_code_is_a_sum_and_a_difference(vectors):
    total = vectors[1] + vectors[2] - vectors[3]
    np.testing.assert_allclose(compose((1, 2, 3), vectors), total / np.linalg.norm(total))


def test_more_words_come_nearer_and_never_beat_the_best_of_all_codes(vectors):
    target = np.random.default_rng(1).standard_normal(6)
    target /= np.linalg.norm(target)
    code = decompose(target, vectors, range(1, 12), range(1, 12))
    found = compose(code, vectors) @ target
    alone = (vectors[1:] @ target).max()
    best = max(
        compose(c, vectors) @ target for c in product(range(1, 12), (*range(1, 12), NONE), (*range(1, 12), NONE))
    )
    assert alone <= found <= best + 1e-9
    assert found > alone


def test_the_first_word_is_one_of_those_allowed(vectors):
    assert decompose(vectors[4], vectors, [2, 7], range(1, 12))[0] in (2, 7)


def test_the_nearest_come_first(vectors):
    assert nearest(vectors[5], vectors, range(1, 12), 3)[0] == 5
