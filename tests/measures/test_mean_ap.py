"""Mean average precision against a hand-worked toy and scikit-learn."""

from __future__ import annotations

import pytest
import torch

from promptfed.measures.base import build_measure

SCORES = torch.tensor([[0.9, 0.1, 0.3], [0.8, 0.7, 0.2], [0.4, 0.6, 0.9], [0.2, 0.5, 0.1]])
SHOWN = torch.tensor([[1, 0, 0], [0, 1, 0], [1, 1, 0], [1, 0, 0]], dtype=torch.float64)


def test_it_by_hand() -> None:
    """Class 0 ranks its images 1st, 3rd and 4th of four; class 1 ranks them 1st and 2nd; no image shows class 2."""
    measure = build_measure("map")
    first, second = (1 / 1 + 2 / 3 + 3 / 4) / 3, (1 / 1 + 2 / 2) / 2
    assert measure.by_class(measure.total(SCORES, SHOWN)) == [pytest.approx(first), pytest.approx(second), None]
    assert measure.figure(SCORES, SHOWN) == pytest.approx((first + second) / 2, abs=1e-12)


def test_equal_scores_share_one_place() -> None:
    """Both right images are among three that score 1: two of three, whatever the order of the rows."""
    scores, shown = torch.tensor([[1.0], [1.0], [1.0], [0.0]]), torch.tensor([[0.0], [1.0], [1.0], [0.0]])
    for order in ([0, 1, 2, 3], [2, 1, 0, 3], [3, 1, 0, 2]):
        assert build_measure("map").figure(scores[order], shown[order]) == pytest.approx(2 / 3)


def test_sums_of_sites_are_means_weighted_by_the_images_that_show_a_class() -> None:
    measure = build_measure("map")
    parts = [measure.total(SCORES[rows], SHOWN[rows]) for rows in (slice(0, 2), slice(2, 4))]
    joint = parts[0] + parts[1]
    assert joint.examples == 4
    assert measure.allows(joint, 3)
    site_one, site_two = (1.0, 1), (1.0, 2)
    first = (site_one[0] * site_one[1] + site_two[0] * site_two[1]) / 3
    assert measure.by_class(joint) == [pytest.approx(first), pytest.approx(1.0), None]


def test_it_is_scikit_learns_average_precision() -> None:
    sklearn_metrics = pytest.importorskip("sklearn.metrics")
    generator = torch.Generator().manual_seed(0)
    scores = (4 * torch.rand(60, 5, generator=generator)).round()  # with many ties
    shown = (torch.rand(60, 5, generator=generator) < 0.3).double()
    expected = sklearn_metrics.average_precision_score(shown.numpy(), scores.numpy(), average="macro")
    assert build_measure("map").figure(scores, shown) == pytest.approx(float(expected), abs=1e-9)


def test_no_answer_ranks_last_and_no_right_image_gives_nothing() -> None:
    scores = torch.tensor([[float("nan")], [0.5]])
    assert build_measure("map").figure(scores, torch.tensor([[1.0], [0.0]])) == 0.5
    assert build_measure("map").figure(scores, torch.zeros(2, 1)) == 0.0
