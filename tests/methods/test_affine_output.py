"""Factor and offset behind a frozen forecast."""

from __future__ import annotations

import torch

from promptfed.prompt_state import PromptState
from promptfed.types import NO_PROMPT

from ..small_series import method_of, setup_of, task_of


def test_it_starts_from_the_model_alone_and_moves_its_forecast():
    task = task_of()
    setup = setup_of(task)
    method = method_of("affine_output", setup)
    windows = setup.model.encode_series(task.base_test.items[:3])
    alone = setup.model.median(setup.model.forecast(windows))
    start = method.init_shared()
    assert torch.equal(method.forecast(start, NO_PROMPT, windows), alone)
    moved = PromptState({"factor": start["factor"] * 2, "offset": start["offset"] + 1})
    torch.testing.assert_close(method.forecast(moved, NO_PROMPT, windows), 2 * alone + 1)
