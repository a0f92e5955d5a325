"""nDCG and nP against scikit-learn and against the measures of runs; rankings without a model."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from promptfed.measures.base import build_measure
from promptfed.retrieval.collection import Request
from promptfed.retrieval.figures import description_words, engine_figures, ndcg, trivial_note


def random_cases():
    draw = np.random.default_rng(7)
    for _ in range(50):
        engines = int(draw.integers(2, 20))
        yield draw.random((6, engines)), draw.integers(0, 4, (6, engines)) * 25.0


def test_ndcg_agrees_with_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    for scores, grades in random_cases():
        for row, truth in zip(scores, grades, strict=True):
            gains = truth[np.argsort(-row)]
            for k in (1, 3, 10):
                expected = metrics.ndcg_score([truth], [row], k=k) if truth.any() else 0.0
                assert ndcg(gains.tolist(), truth.tolist(), k) == pytest.approx(expected, abs=1e-12)


def test_figures_agree_with_the_measures_of_runs():
    for scores, grades in random_cases():
        grades[:, 0] += 1  # each request is answered by somebody
        requests = [Request("", tuple(row), 0) for row in grades]
        truth = torch.tensor(grades)
        expected = [build_measure(name).figure(torch.tensor(scores), truth) for name in ("ndcg:10", "np:1")]
        assert engine_figures(scores, requests) == pytest.approx(tuple(expected), abs=1e-9)


def test_words_of_descriptions_and_the_note():
    requests = [Request("where do boats moor", (0.0, 2.0), 1), Request("bake rye bread", (2.0, 1.0), 0)]
    told = ["bread and cakes", "boats and tides"]
    scores = description_words(requests, told)
    assert scores[0, 1] > scores[0, 0] == 0
    assert scores[1, 0] > scores[1, 1] == 0
    assert engine_figures(scores, requests) == (1.0, 1.0)
    line = trivial_note(requests, requests, told, 0)
    assert "on the 2 test requests" in line
    assert "TF-IDF of request and description 100.0 and 100.0" in line
    assert "the asker's own engine first, then these 100.0 and 100.0" in line
