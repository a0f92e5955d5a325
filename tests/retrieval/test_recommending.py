"""Recommendations without texts, against a brute-force count and the measures of runs."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from promptfed.measures.base import build_measure
from promptfed.retrieval.recommending import figures, followers, neighbours, popularity, trivial_note

SEQUENCES = [(0, 1, 2), (1, 2, 0), (1, 2), (3,)]


def test_counts_by_hand():
    assert popularity(SEQUENCES, 5).tolist() == [2, 3, 3, 1, 0]
    chain = followers(SEQUENCES, 5)
    assert chain[1].tolist() == [0, 0, 1, 0, 0]
    assert chain[0].tolist() == [0, 0.5, 0, 0, 0]  # chosen twice, followed once
    assert not chain[3:].any()
    cosines = neighbours(SEQUENCES, 5)
    assert cosines[0, 1] == pytest.approx(2 / math.sqrt(6))
    assert cosines[1, 2] == pytest.approx(1.0)
    assert not cosines.diagonal().any()
    assert np.array_equal(cosines, cosines.T)


def test_figures_are_those_of_a_brute_force_ranking_and_of_the_measures():
    draw = np.random.default_rng(5)
    scores = draw.integers(0, 6, (40, 30)).astype(float)
    tests = []
    for _ in scores:
        order = [int(k) for k in draw.permutation(30)]
        tests.append((order[:4], order[4]))
    recalls, gains = [], []
    for row, (history, target) in zip(scores, tests, strict=True):
        ranked = sorted((k for k in range(30) if k not in history), key=lambda k: (-row[k], k))
        rank = ranked.index(target) + 1
        recalls.append(rank <= 10)
        gains.append(1 / math.log2(rank + 1) if rank <= 10 else 0)
    assert figures(scores, tests) == pytest.approx((np.mean(recalls), np.mean(gains)))
    masked = torch.tensor(scores)
    truth = torch.zeros(40, 30)
    for row, (history, target) in enumerate(tests):
        masked[row, history] = -1e4
        truth[row, target] = 1
    expected = tuple(build_measure(name).figure(masked, truth) for name in ("recall:10", "ndcg:10"))
    assert figures(scores, tests) == pytest.approx(expected)


def test_the_note_names_all_three():
    line = trivial_note(SEQUENCES, [((0,), 1), ((1,), 2)], 5)
    assert "popularity 100.0 and" in line
    assert "item-kNN (last 10)" in line
    assert "Markov over the last 3 100.0 and 100.0" in line
