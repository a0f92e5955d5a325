from __future__ import annotations

import math

import pytest
import torch

from promptfed.methods.fedtpg.generator import ContextGenerator

BLOCK = "meta_net.encoder.cross_attend_blocks"
RELEASED = {
    "meta_net.soft_prompt": (4, 512),
    f"{BLOCK}.0.fn.in_proj_weight": (1536, 512),
    f"{BLOCK}.0.fn.in_proj_bias": (1536,),
    f"{BLOCK}.0.fn.out_proj.weight": (512, 512),
    f"{BLOCK}.0.fn.out_proj.bias": (512,),
    f"{BLOCK}.0.norm.weight": (512,),
    f"{BLOCK}.0.norm.bias": (512,),
    f"{BLOCK}.0.norm_context.weight": (512,),
    f"{BLOCK}.0.norm_context.bias": (512,),
    f"{BLOCK}.1.net.0.weight": (512,),
    f"{BLOCK}.1.net.0.bias": (512,),
    f"{BLOCK}.1.net.1.weight": (4096, 512),
    f"{BLOCK}.1.net.1.bias": (4096,),
    f"{BLOCK}.1.net.3.weight": (512, 2048),
    f"{BLOCK}.1.net.3.bias": (512,),
}
"""The fifteen names and shapes of the released checkpoints."""


def draw(seed=0):
    return torch.Generator().manual_seed(seed)


def random_parameters(generator, seed=1):
    noise = draw(seed)
    return {name: torch.randn(shape, generator=noise, dtype=torch.float64) for name, shape in generator.shapes.items()}


def normalised(x, weight, bias):
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight + bias


def attended(x, context, p, prefix, heads):
    """Multi-head attention with loops over heads and queries; the packed projection holds query, key, value."""
    width = x.shape[1]
    wq, wk, wv = p[f"{prefix}.in_proj_weight"].split(width)
    bq, bk, bv = p[f"{prefix}.in_proj_bias"].split(width)
    q, k, v = x @ wq.T + bq, context @ wk.T + bk, context @ wv.T + bv
    size, out = width // heads, torch.zeros_like(x)
    for h in range(heads):
        part = slice(h * size, (h + 1) * size)
        for row in range(len(x)):
            scores = torch.stack([q[row, part].dot(key) / math.sqrt(size) for key in k[:, part]])
            shares = scores.exp() / scores.exp().sum()
            out[row, part] = sum(s * value for s, value in zip(shares, v[:, part], strict=True))
    return out @ p[f"{prefix}.out_proj.weight"].T + p[f"{prefix}.out_proj.bias"]


def fed_forward(x, p, prefix):
    wide = normalised(x, p[f"{prefix}.0.weight"], p[f"{prefix}.0.bias"]) @ p[f"{prefix}.1.weight"].T
    value, gate = (wide + p[f"{prefix}.1.bias"]).chunk(2, dim=-1)
    gelu = gate * 0.5 * (1 + torch.erf(gate / math.sqrt(2)))
    return (value * gelu) @ p[f"{prefix}.3.weight"].T + p[f"{prefix}.3.bias"]


def by_hand(p, embeddings, heads, layers):
    first = f"{BLOCK}.0"
    query = normalised(p["meta_net.soft_prompt"], p[f"{first}.norm.weight"], p[f"{first}.norm.bias"])
    seen = normalised(embeddings, p[f"{first}.norm_context.weight"], p[f"{first}.norm_context.bias"])
    y = attended(query, seen, p, f"{first}.fn", heads)
    y = y + fed_forward(y, p, f"{BLOCK}.1.net")
    for i in range(layers):
        layer = f"meta_net.transformer.layers.{i}"
        own = normalised(y, p[f"{layer}.0.norm.weight"], p[f"{layer}.0.norm.bias"])
        y = y + attended(own, own, p, f"{layer}.0.fn", heads)
        y = y + fed_forward(y, p, f"{layer}.1.net")
    return y


def test_names_and_shapes_are_those_of_the_released_checkpoints():
    assert ContextGenerator(512, 512).shapes == RELEASED
    assert sum(math.prod(shape) for shape in RELEASED.values()) == 4_206_080


def test_each_further_layer_adds_what_it_adds_in_the_paper():
    shapes = ContextGenerator(512, 512, layers=2).shapes
    added = {name: shape for name, shape in shapes.items() if name not in RELEASED}
    assert {name.split(".")[3] for name in added} == {"0", "1"}
    assert sum(math.prod(shape) for shape in added.values()) == 2 * 4_203_008
    one = {
        name.removeprefix("meta_net.transformer.layers.1."): shape
        for name, shape in added.items()
        if ".layers.1." in name
    }
    assert set(one) == {
        *(f"0.{name}" for name in ("fn.in_proj_weight", "fn.in_proj_bias", "fn.out_proj.weight", "fn.out_proj.bias")),
        *(f"0.norm.{kind}" for kind in ("weight", "bias")),
        *(f"1.net.{k}.{kind}" for k in (0, 1, 3) for kind in ("weight", "bias")),
    }


@pytest.mark.parametrize("layers", [0, 2])
def test_the_output_is_the_papers_formula(layers):
    generator = ContextGenerator(8, 8, n_ctx=3, layers=layers, heads=4)
    parameters = random_parameters(generator)
    embeddings = torch.randn(5, 8, generator=draw(2), dtype=torch.float64)
    found = generator(parameters, embeddings)
    assert found.shape == (1, 3, 8)
    assert torch.allclose(found[0], by_hand(parameters, embeddings, heads=4, layers=layers), rtol=1e-9)


def test_the_queries_of_a_deeper_prompt_stand_one_depth_after_the_other():
    generator = ContextGenerator(8, 8, n_ctx=2, prompt_depth=3)
    parameters = random_parameters(generator)
    embeddings = torch.randn(4, 8, generator=draw(2), dtype=torch.float64)
    assert parameters["meta_net.soft_prompt"].shape == (6, 8)
    whole = by_hand(parameters, embeddings, heads=4, layers=0)
    assert torch.allclose(generator(parameters, embeddings), torch.stack([whole[:2], whole[2:4], whole[4:]]))


def test_class_embeddings_have_no_order():
    generator = ContextGenerator(8, 8)
    parameters, embeddings = random_parameters(generator), torch.randn(6, 8, generator=draw(2), dtype=torch.float64)
    turned = generator(parameters, embeddings[torch.randperm(6, generator=draw(3))])
    assert torch.allclose(turned, generator(parameters, embeddings))
    assert not torch.allclose(generator(parameters, embeddings[:5]), turned)


def test_gradients_reach_every_parameter_but_the_keys_bias_which_a_softmax_cannot_see():
    generator = ContextGenerator(8, 8, layers=1)
    parameters = {name: t.requires_grad_(True) for name, t in random_parameters(generator).items()}
    generator(parameters, torch.randn(5, 8, generator=draw(2), dtype=torch.float64)).square().sum().backward()
    for name, tensor in parameters.items():
        parts = tensor.grad.split(8) if name.endswith("in_proj_bias") else [tensor.grad]
        sizes = [part.abs().max().item() for part in parts]
        assert all(size > 1e-6 for k, size in enumerate(sizes) if not (len(sizes) == 3 and k == 1)), name


def test_embeddings_of_another_width_get_projections_of_their_own():
    generator = ContextGenerator(8, 6)
    assert generator.shapes[f"{BLOCK}.0.fn.k_proj_weight"] == (8, 6)
    assert generator.shapes[f"{BLOCK}.0.norm_context.weight"] == (6,)
    parameters = random_parameters(generator)
    embeddings = torch.randn(5, 6, generator=draw(2), dtype=torch.float64)
    assert torch.isfinite(generator(parameters, embeddings)).all()
    assert torch.allclose(generator(parameters, embeddings.flip(0)), generator(parameters, embeddings))


def test_the_start_is_drawn_from_its_stream_and_from_nothing_else():
    before = torch.get_rng_state()
    generator = ContextGenerator(64, 48, layers=1)
    one, two = generator.start(draw(5)), generator.start(draw(5))
    assert torch.equal(torch.get_rng_state(), before)
    assert {name: tuple(t.shape) for name, t in one.items()} == generator.shapes
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_the_start_has_the_spread_of_pytorchs_own():
    start = ContextGenerator(64, 64, layers=1).start(draw())
    from torch import nn

    attention, linear = nn.MultiheadAttention(64, 4), nn.Linear(64, 512)
    for name, like in (
        (f"{BLOCK}.0.fn.in_proj_weight", attention.in_proj_weight),
        (f"{BLOCK}.0.fn.out_proj.weight", attention.out_proj.weight),
        (f"{BLOCK}.1.net.1.weight", linear.weight),
        (f"{BLOCK}.1.net.1.bias", linear.bias),
    ):
        assert start[name].std().item() == pytest.approx(like.std().item(), rel=0.1)
        assert start[name].abs().max().item() == pytest.approx(like.abs().max().item(), rel=0.05)
    assert start["meta_net.soft_prompt"].std().item() == pytest.approx(0.02, rel=0.2)
    for name, tensor in start.items():
        if "norm" in name or ".net.0." in name:
            assert torch.equal(tensor, torch.full_like(tensor, float(name.endswith("weight")))), name
    assert not start[f"{BLOCK}.0.fn.in_proj_bias"].any()
    assert not start["meta_net.transformer.layers.0.0.fn.out_proj.bias"].any()


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="3 heads"):
        ContextGenerator(8, 8, heads=3)


def test_a_missing_parameter_is_an_error():
    generator = ContextGenerator(8, 8)
    parameters = random_parameters(generator)
    del parameters["meta_net.soft_prompt"]
    with pytest.raises(RuntimeError, match="soft_prompt"):
        generator(parameters, torch.randn(5, 8, generator=draw(2), dtype=torch.float64))
