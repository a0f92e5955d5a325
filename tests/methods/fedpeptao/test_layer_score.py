from __future__ import annotations

import pytest
import torch
from torch import Tensor

from promptfed.methods.fedpeptao.layer_score import chosen_layers, layer_score, ranking


def states_with(cosines: Tensor) -> Tensor:
    """States of texts with these ``cosines`` ``(n, n)``."""
    return torch.linalg.cholesky(cosines)


def test_scores_of_matrices_by_hand() -> None:
    alike = torch.tensor([[1.0, 0.9], [0.9, 1.0]])
    halves = torch.full((3, 3), 0.5) + 0.5 * torch.eye(3)
    assert layer_score(states_with(torch.eye(2))) == pytest.approx(2.0, abs=1e-3)
    assert layer_score(states_with(alike)) == pytest.approx(8.86, abs=1e-2)
    assert layer_score(states_with(halves)) == pytest.approx(3.807, abs=1e-3)
    assert layer_score(torch.ones(2, 4)) == pytest.approx(1e5, rel=1e-3)


def test_lengths_of_states_and_the_order_of_texts_do_not_matter() -> None:
    states = torch.randn(4, 3, 5, generator=torch.Generator().manual_seed(0))
    lengths = torch.tensor([1.0, 2.0, 0.5, 7.0])[:, None, None]
    expected = layer_score(states)
    assert layer_score(states * lengths) == pytest.approx(expected, abs=1e-5)
    assert layer_score(states[[2, 0, 3, 1]]) == pytest.approx(expected, abs=1e-5)


def test_the_highest_scores_are_chosen_and_ties_go_to_the_lower_layer() -> None:
    scores = [2.0, 9.0, 2.0, 5.0]
    assert ranking(scores) == [1, 3, 0, 2]
    assert chosen_layers(scores, 3) == [0, 1, 3]
