from __future__ import annotations

import logging

import numpy as np
import pytest
import torch

from promptfed.aggregators.base import build_aggregator
from promptfed.aggregators.fltrust import trust_scores
from promptfed.aggregators.mean import Mean


def test_scores_by_hand():
    rows = torch.tensor([[2.0, 0.0], [3.0, 4.0], [-1.0, 0.0], [0.0, 0.0], [0.0, 7.0]], dtype=torch.float64)
    scores = trust_scores(rows, torch.tensor([5.0, 0.0], dtype=torch.float64))
    assert scores.tolist() == pytest.approx([1, 0.6, 0, 0, 0])


def test_by_hand(state, merge):
    # D_0 = (5, 0). (2, 0) counts 1 and (3, 4) counts 0.6, both at length 5; (-9, 0) counts nothing.
    prompts = [state(6, 1), state(3, 1), state(4, 5), state(-8, 1)]
    found = merge("fltrust", state(1, 1), prompts, [1, 9, 1, 50], root=0)["ctx"]
    expected = np.array([1, 1]) + (1.0 * np.array([5, 0]) + 0.6 * np.array([3, 4])) / 1.6
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_the_prompt_moves_no_further_than_the_trusted_client(crowd, merge):
    shared, prompts, _ = crowd
    huge = [prompts[0], *(p.map(lambda t: t + 1e5) for p in prompts[1:])]
    limit = (prompts[0] - shared).norm()
    assert (merge("fltrust", shared, huge, root=0) - shared).norm() <= limit * (1 + 1e-4)


def test_how_long_a_change_is_makes_no_difference(crowd, merge):
    shared, prompts, _ = crowd
    longer = [prompts[0], *(shared + 7 * (p - shared) for p in prompts[1:])]
    one, other = merge("fltrust", shared, prompts, root=0), merge("fltrust", shared, longer, root=0)
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-4, atol=1e-5)


def test_nobody_agrees_or_nobody_is_there(state, merge):
    assert merge("fltrust", state(0), [state(1), state(-1), state(-3)], root=0) == state(0)
    assert merge("fltrust", state(0), [state(1)], root=0) == state(0)
    assert merge("fltrust", state(0), [state(0), state(1)], root=0) == state(0)


def test_without_the_trusted_client_the_prompt_stays_and_it_is_said(state, merge, caplog):
    with caplog.at_level(logging.WARNING):
        assert merge("fltrust", state(0), [state(1), state(2)], root=7) == state(0)
    assert "the trusted client, 7, sent nothing" in caplog.text


def test_alone_it_is_the_mean():
    rule = build_aggregator("fltrust", {"root": 2})
    assert type(rule.alone()) is Mean
    assert type(build_aggregator("median", {}).alone()) is not Mean
