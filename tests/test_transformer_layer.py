"""The layer of the bundled transformers: what a token sees."""

from __future__ import annotations

import pytest
import torch

from promptfed.transformer_layer import TransformerLayer


@pytest.mark.parametrize("causal", [True, False])
def test_a_causal_token_sees_those_before_it_alone(causal: bool) -> None:
    layer = TransformerLayer(8, 2, causal=causal)
    tokens = torch.randn(1, 4, 8)
    changed = torch.cat([tokens[:, :3], tokens[:, 3:] + 1], 1)
    with torch.no_grad():
        before, after = layer(tokens), layer(changed)
    assert torch.equal(before[:, :3], after[:, :3]) is causal
    assert not torch.equal(before[:, 3], after[:, 3])
