from __future__ import annotations

import math

import pytest
import torch

from promptfed.methods.pfedmoap.gate import Gate


@pytest.mark.parametrize(
    ("embed_dim", "stride", "width", "heads"),
    [(512, 4, 128, 8), (1024, 8, 128, 8), (384, 3, 128, 8), (128, 1, 128, 8), (3, 1, 3, 1), (200, 2, 100, 4)],
)
def test_features_are_thinned_out_to_at_most_128_numbers(embed_dim, stride, width, heads):
    gate = Gate(embed_dim, 10.0)
    assert (gate.stride, gate.width, gate.heads) == (stride, width, heads)
    numbers = torch.arange(embed_dim).float()
    assert gate.thinned(numbers).tolist() == numbers[::stride].tolist()
    assert len(gate.thinned(numbers)) == width


def test_mixture_is_torchs_multi_head_attention():
    """Given the usual scale; every image and class is a sequence of its own there."""
    gate = Gate(32, 1 / math.sqrt(32 / 8))
    noise = torch.Generator().manual_seed(0)
    weights = gate.start("xavier", noise).map(lambda t: t + 0.1 * torch.randn(t.shape, generator=noise))
    images, texts = torch.randn(5, 32, generator=noise), torch.randn(3, 4, 32, generator=noise)

    torchs = torch.nn.MultiheadAttention(32, 8, batch_first=True)
    parts = ("query", "key", "value")
    with torch.no_grad():
        torchs.in_proj_weight.copy_(torch.cat([weights[f"gate.{part}.weight"] for part in parts]))
        torchs.in_proj_bias.copy_(torch.cat([weights[f"gate.{part}.bias"] for part in parts]))
        torchs.out_proj.weight.copy_(weights["gate.output.weight"])
        torchs.out_proj.bias.copy_(weights["gate.output.bias"])
        ours = gate.mixed(weights, images, texts)
        for c in range(4):
            said = texts[:, c].expand(5, -1, -1)
            theirs, _ = torchs(images[:, None], said, said)
            assert torch.allclose(ours[:, c], theirs[:, 0], atol=1e-5)


def test_the_order_of_experts_does_not_matter():
    gate, noise = Gate(16, 10.0), torch.Generator().manual_seed(1)
    weights = gate.start("xavier", noise)
    images, texts = torch.randn(2, 16, generator=noise), torch.randn(4, 3, 16, generator=noise)
    mixed = gate.mixed(weights, images, texts)
    assert torch.allclose(mixed, gate.mixed(weights, images, texts[[2, 0, 3, 1]]), atol=1e-6)


def test_identity_gate_of_equal_experts_gives_them_back():
    gate, noise = Gate(16, 10.0), torch.Generator().manual_seed(1)
    text = torch.randn(3, 16, generator=noise)
    mixed = gate.mixed(gate.start("identity", noise), torch.randn(2, 16, generator=noise), text.expand(5, -1, -1))
    assert torch.allclose(mixed, text.expand(2, -1, -1), atol=1e-5)


def test_starts_depend_on_the_stream_alone():
    gate = Gate(16, 10.0)
    first, again, other = (gate.start("xavier", torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert first == again
    assert first != other
    assert first["gate.query.weight"].abs().max() <= math.sqrt(3 / 16)
