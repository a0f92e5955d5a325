"""Measures of rankings against hand-computed values, and the way of grades from an example to a figure."""

from __future__ import annotations

from math import log2, nan

import pytest
import torch

from promptfed.errors import ConfigError
from promptfed.examples.base import GradedText, TextItem
from promptfed.measures.base import build_measure
from promptfed.truth import truth_of
from promptfed.types import Split

SCORES = torch.tensor([[0.1, 0.9, 0.5, 0.2], [3.0, 2.0, 1.0, 0.0]])
GRADES = torch.tensor([[100.0, 0.0, 50.0, 25.0], [0.0, 0.0, 0.0, 40.0]], dtype=torch.float64)


def test_ndcg_has_the_grade_as_gain_and_the_binary_logarithm_as_discount() -> None:
    gain = 0 / log2(2) + 50 / log2(3) + 25 / log2(4) + 100 / log2(5)
    best = 100 / log2(2) + 50 / log2(3) + 25 / log2(4)
    second = (40 / log2(5)) / 40
    assert build_measure("ndcg").figure(SCORES, GRADES) == pytest.approx((gain / best + second) / 2, abs=1e-12)
    cut = (0 + 50 / log2(3)) / (100 + 50 / log2(3))
    assert build_measure("ndcg:2").figure(SCORES, GRADES) == pytest.approx((cut + 0) / 2, abs=1e-12)


def test_normalised_precision_divides_by_the_best_choices() -> None:
    assert build_measure("np:1").figure(SCORES, GRADES) == 0
    assert build_measure("np:2").figure(SCORES, GRADES) == pytest.approx((50 / 150 + 0) / 2)
    assert build_measure("np:4").figure(SCORES, GRADES) == 1


def test_recall_counts_classes_that_fit_at_all() -> None:
    assert build_measure("recall:3").figure(SCORES, GRADES) == pytest.approx((2 / 3 + 0) / 2)


def test_an_example_that_nothing_fits_is_not_counted() -> None:
    scores, grades = torch.cat([SCORES, SCORES[:1]]), torch.cat([GRADES, torch.zeros(1, 4)])
    for name in ("ndcg:10", "np:2", "recall:3"):
        measure = build_measure(name)
        assert measure.figure(scores, grades) == pytest.approx(measure.figure(SCORES, GRADES)), name
        assert measure.figure(scores[2:], grades[2:]) == 0


def test_no_answer_is_worth_nothing_and_unknown_grades_are_none() -> None:
    scores = torch.tensor([[nan, nan, nan, nan], [3.0, 2.0, 1.0, 0.0]])
    grades = torch.tensor([[1.0, 0.0, 0.0, 0.0], [nan, 2.0, nan, nan]])
    assert build_measure("recall:2").figure(scores, grades) == 0.5
    assert build_measure("np:1").figure(scores, grades) == 0


def test_equal_scores_rank_in_the_order_of_the_classes() -> None:
    assert build_measure("np:1").figure(torch.zeros(1, 3), torch.tensor([[0.0, 1.0, 1.0]])) == 0
    assert build_measure("np:1").figure(torch.zeros(1, 3), torch.tensor([[1.0, 0.0, 0.0]])) == 1


def test_of_one_label_recall_is_top_k_accuracy() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(200, 9, generator=generator)
    labels = torch.randint(0, 9, (200,), generator=generator)
    split = Split(tuple(TextItem(str(k)) for k in range(200)), labels)
    recall, top = build_measure("recall:3"), build_measure("top_k:3")
    assert recall.figure(scores, truth_of(recall, split, 9)) == pytest.approx(top.figure(scores, labels))


def test_grades_are_cut_to_the_classes_and_rows_that_were_scored() -> None:
    items = tuple(GradedText(f"text {k}", class_grades=tuple(row)) for k, row in enumerate(GRADES.tolist()))
    split, measure = Split(items, torch.tensor([0, 3])), build_measure("ndcg:10")
    assert torch.equal(truth_of(measure, split, 4), GRADES)
    assert torch.equal(truth_of(measure, split, 2, [1, 3], torch.tensor([1])), GRADES[1:][:, [1, 3]])
    assert torch.equal(truth_of(build_measure("nll"), split, 2, [1, 3]), torch.tensor([-1, 1]))


def test_grades_are_no_part_of_what_a_text_is() -> None:
    one, other = GradedText("a", class_grades=(1.0, 0.0)), GradedText("a", class_grades=(0.0, 1.0))
    assert one == other
    assert one.content_id() == other.content_id() == TextItem("a").content_id()


@pytest.mark.parametrize("name", ["ndcg:0", "np:x", "recall:-1", "ndcg:1.5", "ndcg:99999999"])
def test_a_cut_off_is_a_whole_number_from_one(name: str) -> None:
    with pytest.raises(ConfigError, match="needs a whole number from 1, such as"):
        build_measure(name)
