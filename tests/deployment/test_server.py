"""What the server of a Flower run prints."""

from __future__ import annotations

import math

import pytest

pytest.importorskip("flwr")

from promptfed.deployment.server import PrintProgress


def test_a_round_without_a_look_at_validation_data_says_nothing_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    progress = PrintProgress()
    progress.round("PromptFL", 1, 0.51234, math.nan, 41_730)
    progress.round("PromptFL", 2, 0.5, 0.4167, 41_728)
    progress.round("PromptFL", 3, math.nan, math.nan, 0)  # all sites failed
    assert capsys.readouterr().out.splitlines() == [
        "PromptFL round 1: loss 0.5123, 41,730 bytes",
        "PromptFL round 2: loss 0.5000, validation accuracy 41.7 %, 41,728 bytes",
        "PromptFL round 3: loss -, 0 bytes",
    ]
