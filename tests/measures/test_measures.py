"""Each measure on a few rows of scores, with figures worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from promptfed.errors import ConfigError
from promptfed.measures import base
from promptfed.measures.base import MEASURES, Measure, Total, build_measure, truth_among

NAN = float("nan")
SCORES = torch.tensor([[3.0, 1.0, 2.0], [0.0, 2.0, 1.0], [5.0, 4.0, 1.0], [1.0, 0.0, 2.0]])
TRUTH = torch.tensor([0, 1, 1, 0])
"""The answers are 0, 1, 0 and 2: rows 0 and 1 are right; row 2 has the truth second, row 3 too."""


def figure(name: str, scores: torch.Tensor = SCORES, truth: torch.Tensor = TRUTH) -> float:
    return build_measure(name).figure(scores, truth)


def test_accuracy_and_top_k() -> None:
    assert figure("accuracy") == figure("top_k:1") == 0.5
    assert figure("top_k:2") == 1.0
    assert figure("top_k", torch.arange(7.0).repeat(2, 1), torch.tensor([1, 2])) == 0.5, "1 is the sixth of seven"
    tied = torch.zeros(3, 3)
    assert figure("top_k:1", tied, torch.tensor([0, 1, 2])) == figure("accuracy", tied, torch.tensor([0, 1, 2]))
    assert figure("top_k:2", tied, torch.tensor([0, 1, 2])) == pytest.approx(2 / 3), "the first rank higher"


def test_macro_f1() -> None:
    # class 0: 1 both, 2 right, 2 answered; class 1: 1, 2, 1; class 2: 0, 0, 1
    assert figure("macro_f1") == pytest.approx((2 / 4 + 2 / 3 + 0) / 3)
    rare = torch.tensor([[1.0, 0.0, 0.0]] * 9 + [[1.0, 0.0, 0.0]])
    truth = torch.tensor([0] * 9 + [1])
    assert figure("accuracy", rare, truth) == 0.9
    assert figure("macro_f1", rare, truth) == pytest.approx((18 / 19 + 0) / 2), "class 2 does not occur"


def test_nll() -> None:
    scores = torch.tensor([[math.log(3.0), 0.0], [0.0, math.log(4.0)]])
    assert figure("nll", scores, torch.tensor([0, 0])) == pytest.approx((math.log(4 / 3) + math.log(5)) / 2)
    assert figure("nll", torch.tensor([[0.0, 1e4]]), torch.tensor([0])) == pytest.approx(-math.log(1e-12))


def test_ece() -> None:
    # confidences 0.75 (right), 0.79 (wrong), 0.78 (right), which are 11.25, 11.85 and 11.7 fifteenths: one bin
    scores = torch.tensor([[0.75, 0.25], [0.21, 0.79], [0.78, 0.22]]).log()
    assert figure("ece", scores, torch.tensor([0, 0, 0])) == pytest.approx(abs(0.75 + 0.79 + 0.78 - 2) / 3)
    apart = torch.tensor([[0.95, 0.05], [0.4, 0.6]]).log()
    assert figure("ece", apart, torch.tensor([0, 0])) == pytest.approx((0.05 + 0.6) / 2)


def test_an_example_without_an_answer_is_not_right() -> None:
    scores, truth = torch.tensor([[1.0, 0.0], [NAN, NAN]]), torch.tensor([0, 0])
    for name in ("accuracy", "top_k:1", "top_k:5"):
        assert figure(name, scores, truth) == 0.5
    assert figure("macro_f1", scores, truth) == pytest.approx(2 * 1 / (2 + 1)), "recall 1/2, precision 1"
    assert figure("nll", scores, truth) == pytest.approx((math.log(1 + math.exp(-1)) + math.log(2)) / 2)


def test_a_class_that_is_no_candidate_cannot_be_right() -> None:
    truth = truth_among(torch.tensor([5, 7, 9]), [7, 5])
    assert truth.tolist() == [1, 0, -1]
    scores = torch.eye(2)[[1, 0, 0]]
    assert figure("accuracy", scores, truth) == figure("top_k", scores, truth) == pytest.approx(2 / 3)
    assert figure("macro_f1", scores, truth) == pytest.approx((1 + 2 / 3) / 2)
    assert figure("nll", scores, truth) > 27.6 / 3


@pytest.mark.parametrize("name", ["accuracy", "top_k:2", "macro_f1", "nll", "ece"])
def test_totals_of_parts_add_up(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    measure = build_measure(name)
    scores, truth = torch.randn(50, 4, generator=torch.Generator().manual_seed(0)), torch.arange(50) % 4
    whole = measure.total(scores, truth)
    parts = measure.total(scores[:13], truth[:13]) + measure.total(scores[13:], truth[13:])
    assert measure.combine(parts) == pytest.approx(measure.combine(whole))
    assert len(whole.sums) == measure.width(4)
    assert measure.allows(whole, 4)
    monkeypatch.setattr(base, "ROWS", 7)
    assert measure.total(scores, truth).sums == pytest.approx(whole.sums)


def test_sums_that_no_images_have_are_not_allowed() -> None:
    measure = build_measure("macro_f1")
    good = Total((1.0, 1.0, 1.0, 1.0, 1.0, 1.0), 2)
    assert measure.allows(good, 2)
    assert measure.allows(good, 5, local=True)
    for sums in ((1.0,) * 5, (1.0, 1.0, 1.0, 1.0, 9.0, 9.0), (NAN,) * 6, (0.0,) * 6):
        assert not measure.allows(Total(sums, 2), 2)
    assert not measure.allows(good, 5)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("macro-f1", "unknown measure 'macro-f1'. Did you mean 'macro_f1'?"),
        ("top_k:0", "needs a whole number from 1"), ("top_k:x", "needs a whole number"), ("nll:2", "takes nothing"),
    ],
)  # fmt: skip
def test_names_that_there_are_not(name: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why.replace("?", r"\?")):
        build_measure(name)


def test_a_measure_without_a_direction_is_refused() -> None:
    with pytest.raises(ValueError, match="lacks name, better"):
        MEASURES.register("bare")(Measure)
