from __future__ import annotations

import numpy as np
import pytest

from promptfed.blackbox.methods.feddtpt.clustering import (
    TokenClustering,
    Word,
    attention_received,
    clustered,
    elbow,
    weighted_median,
)


def merged(words, length):
    return TokenClustering(8, "hashing", 2, 0.1).merged([Word(*word) for word in words], length)


def test_attention_is_a_share_of_all_weight():
    cosines = np.array([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    received = attention_received(cosines, np.array([0.25, 0.25, 0.5]), 0.1)
    assert received.sum() == pytest.approx(1)
    third = np.exp(10) / (np.exp(10) + 2)
    assert received[2] == pytest.approx(0.5 * third + 0.5 / (2 * np.exp(10) + 1), abs=1e-9)
    assert received[0] == received[1]


def test_the_elbow_is_where_the_curve_bends():
    assert elbow(np.array([0.9, 0.1, 0.12, 0.11, 0.8])) == 0.12
    assert elbow(np.array([0.1, 0.2, 0.3])) == pytest.approx(0.3)
    assert elbow(np.array([0.4])) == 0.4


def test_equal_words_are_one_cluster_and_strangers_are_none():
    distances = np.array([[0, 0, 0.9, 1], [0, 0, 0.9, 1], [0.9, 0.9, 0, 0.95], [1, 1, 0.95, 0]])
    assert clustered(distances, 2).tolist() == [0, 0, -1, -1]


def test_the_median_is_by_weight():
    assert weighted_median([(3, 0.2), (0, 0.2), (1, 0.6)]) == 1
    assert weighted_median([(2, 0.5), (0, 0.5)]) == 0


def test_clusters_come_first_and_stand_where_they_mostly_stood():
    words = [("alpha", 2, 0.3), ("alpha", 2, 0.3), ("gamma", 0, 0.4), ("gamma", 1, 0.1), ("zebra", 1, 0.4)]
    assert merged(words, 2) == ["gamma", "alpha"]
    assert merged(words, 3) == ["gamma", "zebra", "alpha"]
    assert merged(words[::-1], 3) == ["gamma", "zebra", "alpha"]
    assert merged(words, 0) == merged([], 3) == []
