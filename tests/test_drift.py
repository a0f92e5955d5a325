"""The distance that a round moves the shared prompt, by hand."""

import math

import pytest
import torch

from promptfed.drift import relative_change
from promptfed.prompt_state import PromptState


def test_the_distance_is_beside_the_norm_before() -> None:
    before = PromptState({"a": torch.tensor([3.0, 0.0]), "b": torch.tensor([4.0]), "text": torch.tensor([1, 2])})
    after = PromptState({"a": torch.tensor([3.0, 1.0]), "b": torch.tensor([4.0]), "text": torch.tensor([9, 9])})
    assert relative_change(before, after) == pytest.approx(1 / 5)
    assert relative_change(before, before) == 0


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"text": torch.tensor([1])}, {"text": torch.tensor([2])}),
        ({}, {"a": torch.ones(2)}),
        ({"a": torch.zeros(2)}, {"a": torch.ones(2)}),
        ({"a": torch.ones(2)}, {"a": torch.ones(3)}),
        ({"a": torch.ones(2)}, {}),
    ],
)
def test_nothing_to_compare_is_no_number(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> None:
    assert math.isnan(relative_change(PromptState(before), PromptState(after)))
