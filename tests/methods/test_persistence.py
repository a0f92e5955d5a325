"""The trivial forecasts, by hand."""

from __future__ import annotations

import torch

from promptfed.measures.base import build_measure
from promptfed.types import NO_PROMPT, Broadcast

from ..small_series import method_of, setup_of, task_of


def test_the_last_value_and_the_last_day_are_repeated():
    task = task_of(horizon=30)
    setup = setup_of(task)
    windows = setup.model.encode_series(task.base_test.items[:5])
    last = method_of("persistence", setup).forecast(windows)
    assert torch.equal(last, windows.past[..., -1:].expand(5, 2, 30))
    day = method_of("yesterday", setup).forecast(windows)
    assert torch.equal(day[..., :24], windows.past[..., -24:])
    assert torch.equal(day[..., 24:], windows.past[..., -24:-18])


def test_persistence_is_never_better_than_itself():
    task = task_of()
    method = method_of("persistence", setup_of(task))
    scores = method.logits(NO_PROMPT, NO_PROMPT, (), task.base_test)
    assert not scores[:, 1].any()
    assert build_measure("relative_mae").figure(scores, task.base_test.labels) == 1.0
    update, _ = method.train(Broadcast(1, NO_PROMPT), task.clients[0], NO_PROMPT)
    assert len(update.shared) == 0
    assert update.accuracy == 0
