"""Measures of forecasts, by hand."""

from __future__ import annotations

import math

import pytest
import torch

from promptfed.errors import ConfigError
from promptfed.measures.base import Total, build_measure, check_reads
from promptfed.scores import forecast_scores, mean_loss, predicted

TRUTH = torch.tensor([[[0.0, 0.0]], [[1.0, 3.0]]])
LAST = torch.tensor([[[1.0, 1.0]], [[1.0, 1.0]]])
FORECAST = torch.tensor([[[0.0, 1.0]], [[4.0, 3.0]]])


def test_by_hand():
    scores, labels = forecast_scores(FORECAST, TRUTH, LAST), torch.ones(2, dtype=torch.int64)
    assert scores[:, :2].tolist() == [[0, 1], [1, 0]]
    assert predicted(scores).tolist() == [1, 0]
    assert build_measure("mae").figure(scores, labels) == pytest.approx((0.5 + 1.5) / 2)
    assert build_measure("rmse").figure(scores, labels) == pytest.approx(math.sqrt((0.5 + 4.5) / 2))
    assert build_measure("relative_mae").figure(scores, labels) == pytest.approx(2.0 / (1 + 1))
    assert mean_loss(scores, labels, 2) == pytest.approx(1.0)


def test_totals_of_halves_are_that_of_all():
    scores, labels = forecast_scores(FORECAST, TRUTH, LAST), torch.ones(2, dtype=torch.int64)
    for name in ("mae", "rmse", "relative_mae"):
        measure = build_measure(name)
        halves = [measure.total(scores[k : k + 1], labels[k : k + 1]) for k in range(2)]
        assert measure.combine(halves[0] + halves[1]) == pytest.approx(measure.figure(scores, labels))
        assert measure.allows(halves[0], 2)
        assert not measure.allows(Total((math.nan,) * measure.width(2), 1), 2)
    assert build_measure("relative_mae").combine(Total((0.0, 0.0), 3)) == 1.0


def test_they_go_with_forecasts_alone():
    check_reads(["mae", "rmse", "relative_mae", "accuracy"], "forecasts", "forecast")
    with pytest.raises(ConfigError, match="which sorts into classes"):
        check_reads(["mae"], "classes", "clip-fewshot")
    with pytest.raises(ConfigError, match=r"which forecasts numbers: use one of .*mae"):
        check_reads(["macro_f1"], "forecasts", "forecast")
