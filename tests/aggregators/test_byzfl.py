"""The formulas of robust rules are those of ByzFL (EPFL), where it has them: an oracle by other people."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from promptfed.aggregators.base import build_aggregator
from promptfed.prompt_state import PromptState
from promptfed.types import Update

byzfl = pytest.importorskip("byzfl")

CLOSE = {"rtol": 1e-6, "atol": 1e-6}


@pytest.fixture(params=range(3))
def rows(request) -> np.ndarray:
    """Changes of eleven clients, two of which are far away, as float32 holds them."""
    rng = np.random.default_rng(request.param)
    found = rng.normal(size=(11, 20)) + rng.normal(size=20)
    found[[2, 7]] += 6
    return found.astype(np.float32).astype(np.float64)


def merged(name: str, rows: np.ndarray, rounds: int = 1, **options: object) -> np.ndarray:
    """What the rule makes of changes ``rows`` from a prompt of zeros, in the last of ``rounds``."""
    rule = build_aggregator(name, {**options, "longest": None})
    zero = PromptState({"a": torch.zeros(2, 6), "b": torch.zeros(8)})
    states = [
        PromptState({"a": torch.from_numpy(row[:12]).reshape(2, 6), "b": torch.from_numpy(row[12:])}) for row in rows
    ]
    updates, server = [Update(i, state, 1, 0.0, 0.0) for i, state in enumerate(states)], rule.init(zero)
    for _ in range(rounds):
        found, server = rule.apply(zero, updates, server)
    return np.concatenate([found["a"].numpy().ravel(), found["b"].numpy()])


def test_average_and_median(rows):
    np.testing.assert_allclose(merged("mean", rows), byzfl.Average()(rows), **CLOSE)
    np.testing.assert_allclose(merged("uniform", rows), byzfl.Average()(rows), **CLOSE)
    np.testing.assert_allclose(merged("median", rows), byzfl.Median()(rows), **CLOSE)


@pytest.mark.parametrize("cut", [1, 2, 4])
def test_trimmed_mean(rows, cut):
    np.testing.assert_allclose(merged("trimmed_mean", rows, trim=cut / 11), byzfl.TrMean(cut)(rows), **CLOSE)


@pytest.mark.parametrize("f", [1, 2, 3])
def test_krum(rows, f):
    """ByzFL scores by n - f - 1 nearest fellows, the paper and promptfed by n - f - 2: its f is ``byzantine`` + 1."""
    np.testing.assert_allclose(merged("krum", rows, byzantine=f - 1), byzfl.Krum(f)(rows), **CLOSE)
    found = merged("multi_krum", rows, byzantine=f - 1, keep=11 - f)
    np.testing.assert_allclose(found, byzfl.MultiKrum(f)(rows), **CLOSE)


def test_geometric_median(rows):
    """ByzFL starts from zero; after enough iterations that makes no difference."""
    found = merged("geometric_median", rows, smoothing=1e-6, iterations=2000, tolerance=1e-13)
    np.testing.assert_allclose(found, byzfl.GeometricMedian(nu=1e-6, T=2000)(rows), **CLOSE)


@pytest.mark.parametrize("iterations", [1, 2, 3])
@pytest.mark.parametrize("tau", [0.5, 5.0, 100.0])
def test_centered_clipping_over_rounds(rows, tau, iterations):
    theirs = byzfl.CenteredClipping(L=iterations, tau=tau)
    for rounds in (1, 2, 3):
        expected = theirs(rows)  # it remembers its centre
        found = merged("centered_clip", rows, rounds, tau=tau, iterations=iterations)
        np.testing.assert_allclose(found, expected, **CLOSE)


@pytest.mark.parametrize("bound", [1.0, 5.0, 50.0])
def test_clipping_before_the_average(rows, bound):
    expected = byzfl.Average()(byzfl.Clipping(bound)(rows.copy()))
    np.testing.assert_allclose(merged("norm_bound", rows, bound=bound), expected, **CLOSE)


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_bucketing(rows, size, monkeypatch):
    """The same buckets, if ByzFL deals by our stream."""
    stream = build_aggregator("bucketing", {}).stream(1)
    order = torch.randperm(11, generator=stream).numpy()

    class Dealer:
        permutation = staticmethod(lambda vectors: vectors[order])

    monkeypatch.setattr(sys.modules[byzfl.Bucketing.__module__], "random_tool", lambda _: Dealer)
    means = byzfl.Bucketing(size)(rows)
    for rule, theirs in (("median", byzfl.Median()), ("uniform", byzfl.Average())):
        found = merged("bucketing", rows, size=size, rule=rule)
        np.testing.assert_allclose(found, theirs(means), **CLOSE)
