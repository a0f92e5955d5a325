"""Models that are about to be loaded are built without drawing their weights."""

from __future__ import annotations

import torch
from torch import nn

from promptfed.backbones.undrawn import Undrawn


def test_no_weight_is_drawn_and_the_other_values_are_there() -> None:
    before = torch.get_rng_state()
    with Undrawn():
        model = nn.Sequential(nn.Embedding(5, 4), nn.Conv2d(1, 2, 3), nn.LayerNorm(4), nn.MultiheadAttention(4, 2))
        nn.init.normal_(tensor=model[0].weight)
    assert torch.equal(torch.get_rng_state(), before)
    assert model[2].weight.tolist() == [1.0] * 4
    nn.Linear(2, 2)
    assert not torch.equal(torch.get_rng_state(), before)
