"""Measures of allocations, by hand."""

from __future__ import annotations

import pytest
import torch

from promptfed.errors import ConfigError
from promptfed.measures.base import build_measure, check_reads
from promptfed.scores import allocation_scores, mean_loss, predicted

F64 = torch.float64
SCORES = allocation_scores(
    torch.tensor([0.5, 0.3, 0.7], dtype=F64),
    torch.tensor([0.0, 0.5, 0.1], dtype=F64),
    torch.tensor([0.0, -0.2, 0.1], dtype=F64),
    torch.tensor([0.4, 0.3, 0.2], dtype=F64),
    torch.tensor([0.8, 0.6, 0.9], dtype=F64),
    [11, 11, 12],
)
LABELS = torch.ones(3, dtype=torch.int64)


def test_they_are_what_their_formulas_say() -> None:
    figures = {name: build_measure(name).figure(SCORES, LABELS) for name in ("qoe", "normalised", "late", "qoe_sd")}
    assert figures["qoe"] == pytest.approx(0.5)
    assert figures["normalised"] == pytest.approx(100 * (1.5 - -0.1) / (2.3 - -0.1))
    assert figures["late"] == pytest.approx(0.2)
    # Cells earn .4 (two episodes) and .7 (one): mean .5, variance (2 * .01 + .04) / 3.
    assert figures["qoe_sd"] == pytest.approx(0.02**0.5)


def test_what_is_no_better_than_preferred_counts_as_wrong() -> None:
    assert predicted(SCORES).tolist() == [1, 0, 1]
    assert mean_loss(SCORES, LABELS, 2) == pytest.approx(0.5)


def test_an_expert_no_better_than_chance_gives_no_score() -> None:
    zero = torch.zeros(2, dtype=F64)
    scores = allocation_scores(zero, zero, zero, zero, zero, [0, 1])
    assert build_measure("normalised").figure(scores, LABELS[:2]) == 0.0


def test_they_go_with_rewards_alone() -> None:
    check_reads(["qoe", "normalised", "late", "qoe_sd", "accuracy"], "rewards", "allocation")
    with pytest.raises(ConfigError, match="measure 'qoe' does not go with task 'clip-fewshot'"):
        check_reads(["qoe"], "classes", "clip-fewshot")
    with pytest.raises(ConfigError, match=r"which earns rewards: use one of .*qoe"):
        check_reads(["mae"], "rewards", "allocation")
