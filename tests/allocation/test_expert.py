"""The expert: it comes in time where that can be done, and nobody beats it by much, who may try everything."""

from __future__ import annotations

import numpy as np

from promptfed.allocation.cell import Allocation, make_cell, make_trace, outcome
from promptfed.allocation.expert import CHOICES, as_preferred, at_random, expert, lowest


def test_it_beats_all_rules_in_every_cell() -> None:
    for number in range(8):
        draw = np.random.default_rng(number)
        cell = make_cell("any", draw)
        trace = make_trace(cell, 50, number)
        best = outcome(trace, expert(trace, cell.preferred, cell.rate), cell.preferred, cell.rate)[0].mean()
        for rule in (as_preferred(trace, cell.preferred), lowest(trace), at_random((50,), draw)):
            assert outcome(trace, rule, cell.preferred, cell.rate)[0].mean() < best


def test_it_is_never_late_where_the_lowest_resolution_comes_in_time() -> None:
    cell = make_cell("any", np.random.default_rng(5))
    trace = make_trace(cell, 200, 1)
    done = expert(trace, cell.preferred, cell.rate)
    assert np.allclose(done.share.sum(-1), 1)
    bits = trace.tiles.sum(-1) * 0.25
    need = bits / ((0.2 - bits / cell.rate) * 80 * np.log2(1 + 10 ** (trace.snr / 10)))
    easy = need.sum(-1) < 1
    assert easy.sum() > 100
    assert not outcome(trace, done, cell.preferred, cell.rate)[1][easy].any()


def test_a_search_among_random_allocations_finds_hardly_a_better_one() -> None:
    cell, draw = make_cell("any", np.random.default_rng(2)), np.random.default_rng(3)
    trace = make_trace(cell, 5, 4)
    done = expert(trace, cell.preferred, cell.rate)
    best, _ = outcome(trace, done, cell.preferred, cell.rate)
    for _ in range(300):
        index = CHOICES[draw.integers(0, len(CHOICES), (5, 4))]
        near = np.where(draw.random((5, 4, 1)) < 0.5, index, done.index)
        share = draw.dirichlet(20 * done.share.mean(0), 5)
        other, _ = outcome(trace, Allocation(near, share), cell.preferred, cell.rate)
        assert (other < best + 0.05).all()


def test_cells_may_be_searched_together() -> None:
    cells = [make_cell(str(k), np.random.default_rng(k)) for k in range(3)]
    traces = [make_trace(cell, 7, k) for k, cell in enumerate(cells)]
    alone = [expert(trace, cell.preferred, cell.rate) for trace, cell in zip(traces, cells, strict=True)]
    stack = type(traces[0])(*(np.stack([getattr(t, name) for t in traces]) for name in ("tiles", "snr", "change")))
    rates = np.array([cell.rate for cell in cells])[:, None, None]
    together = expert(stack, np.stack([cell.preferred for cell in cells])[:, None], rates)
    assert np.array_equal(together.index, np.stack([one.index for one in alone]))
    assert np.allclose(together.share, np.stack([one.share for one in alone]))
