"""Merging, worked out by hand for two engines whose scores are of different sizes."""

from __future__ import annotations

import numpy as np
import pytest

from promptfed.retrieval.merging import MERGES, Answers, Hit

FIRST = [Hit(0, 10, 9.0), Hit(0, 11, 7.0), Hit(0, 12, 5.0)]
SECOND = [Hit(1, 20, 0.9), Hit(1, 21, 0.1)]
ANSWERS = Answers({0: FIRST, 1: SECOND}, np.array([0.2, 0.6, 0.4]), {0: (1.0, -8.0), 1: (10.0, -5.0)})


def order(name, answers=ANSWERS):
    return [hit.document for hit in MERGES[name](answers)]


@pytest.mark.parametrize(
    ("name", "documents"),
    [
        ("raw", [10, 11, 12, 20, 21]),
        ("round robin", [20, 10, 21, 11, 12]),
        ("rrf", [20, 10, 21, 11, 12]),
        # engine weights 0 and 1: 1/1.4, .5/1.4, 0 against 1.4/1.4, 0; of the two zeros the better engine's is first
        ("minmax-CORI", [20, 10, 11, 21, 12]),
        # logits 1, -1, -3 against 4, -4
        ("calibrated", [20, 10, 11, 12, 21]),
    ],
)
def test_orders_by_hand(name, documents):
    assert order(name) == documents


def test_one_hit_is_the_best_of_its_list_and_nothing_merges_to_nothing():
    alone = Answers({2: [Hit(2, 5, 3.0)], 0: FIRST[:1]}, np.array([0.5, 0.0, 0.5]))
    assert order("minmax-CORI", alone) == [10, 5]
    for name in MERGES:
        assert order(name, Answers({}, np.array([0.1, 0.2]))) == []
        assert order(name, Answers({0: [], 1: SECOND}, np.array([0.9, 0.2]))) == [20, 21]


def test_an_engine_without_a_calibration_comes_last():
    assert order("calibrated", Answers(ANSWERS.lists, ANSWERS.engines, {0: (1.0, -8.0)})) == [10, 11, 12, 20, 21]
