"""Clip, on numbers that can be checked by hand."""

from __future__ import annotations

import pytest
import torch

from promptfed.errors import ProcessorError
from promptfed.privacy.clip import Clip, ClipConfig
from promptfed.processors.base import Streams
from promptfed.prompt_state import PromptState
from promptfed.types import NO_PROMPT, Broadcast, Update

STREAMS = Streams(0, "clip", 1, 0)
SENT = PromptState({"a": torch.tensor([1.0, 1.0]), "b": torch.tensor([[2.0]])})


def clipped(update: dict[str, list], max_norm: float):
    state = PromptState({name: torch.tensor(values) for name, values in update.items()})
    return Clip(ClipConfig(max_norm=max_norm)).outgoing(
        Update(0, state, 3, 0.5, 0.25), Broadcast(1, SENT), NO_PROMPT, STREAMS
    )


def test_a_change_of_length_13_is_shortened_to_6_5():
    made = clipped({"a": [4.0, 5.0], "b": [[14.0]]}, max_norm=6.5)  # changes 3, 4 and 12: the norm is 13
    assert made.update.shared == PromptState({"a": torch.tensor([2.5, 3.0]), "b": torch.tensor([[8.0]])})
    assert (made.update.samples, made.update.loss, made.update.accuracy) == (3, 0.5, 0.25)
    assert made.figures == {"clipped": 1.0}
    assert (made.update.shared - SENT).norm() == 6.5


def test_a_change_that_is_short_enough_is_left_bit_for_bit():
    made = clipped({"a": [4.0, 5.0], "b": [[14.0]]}, max_norm=13.0)
    assert made.update.shared == PromptState({"a": torch.tensor([4.0, 5.0]), "b": torch.tensor([[14.0]])})
    assert (made.figures, len(made.state)) == ({"clipped": 0.0}, 0)


@pytest.mark.parametrize(
    ("update", "why"),
    [
        ({"a": [1, 2], "b": [[1.0]]}, "'a' holds whole numbers"),
        ({"a": [1.0, 2.0], "c": [1.0]}, r"has no 'c' \(1,\)"),
        ({"a": [1.0], "b": [[1.0]]}, r"has no 'a' \(1,\)"),
    ],
)
def test_what_has_no_change_from_the_broadcast_is_refused(update, why):
    with pytest.raises(ProcessorError, match=why):
        clipped(update, 1.0)


def test_the_summary_counts():
    lines = [{"clipped": 1.0}, {"clipped": 0.0}, {"clipped": 1.0}]
    assert Clip(ClipConfig(max_norm=0.5)).summary(lines) == (
        "clip: 2 of 3 updates were longer than 0.5 and were shortened"
    )
