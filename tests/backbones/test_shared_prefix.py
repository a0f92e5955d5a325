"""What sentences begin with passes through the tower once: the features and gradients of the plain way."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from promptfed.backbones import openclip, shared_prefix
from promptfed.backbones.base import Backbone, PromptedText
from promptfed.backbones.openclip import OpenClipBackbone
from promptfed.backbones.shared_prefix import SharedPrefixTower, plain_sentences, prompted_sentences

NAMES = ("cat", "pin cushion", "hot air balloon", "dog", "a very fine old violin", "fire truck")
SHAPES = {"small": (20, 2, 3), "wide": (96, 6, 2), "deep": (32, 1, 6)}
"""Width, heads and blocks of a random text tower."""


def random_clip(shape: str, precision: str = "float32") -> OpenClipBackbone:
    import open_clip
    from open_clip.model import convert_weights_to_lp

    width, heads, layers = SHAPES[shape]
    dtype = getattr(torch, precision)
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = open_clip.CLIP(
            16,
            {"image_size": 16, "patch_size": 8, "width": 16, "head_width": 8, "layers": 1},
            {"context_length": 40, "vocab_size": 49408, "width": width, "heads": heads, "layers": layers},
            cast_dtype=None if dtype == torch.float32 else dtype,
        )
        for block in model.transformer.resblocks:  # weights large enough for attention to choose
            torch.nn.init.normal_(block.attn.in_proj_weight, std=width**-0.5)
    if dtype != torch.float32:
        convert_weights_to_lp(model, dtype)
    model.visual.preprocess_cfg = {"size": 16}
    return OpenClipBackbone(shape, model, open_clip.tokenizer.SimpleTokenizer(context_length=40), precision=precision)


@pytest.fixture(scope="module", params=SHAPES)
def clip(request: pytest.FixtureRequest) -> OpenClipBackbone:
    return random_clip(request.param)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 0.3


def differences(clip: OpenClipBackbone, texts: Sequence[PromptedText], *leaves: Tensor) -> tuple[float, float]:
    """Return how far features and gradients of ``leaves`` by the two ways are apart, each in units of its bound.

    Features may differ by 4e-6 of the longest one, a gradient by 1e-5 of itself. Fails if the shared way is not taken.
    """
    assert prompted_sentences(texts, clip.device) is not None
    results = []
    for encode in (clip._encode_jointly, lambda some: Backbone._encode_jointly(clip, some)):
        features = encode(texts)
        loss = (torch.nn.functional.normalize(features, dim=-1) * draw(*features.shape, seed=3)).sum()
        results.append((features.detach(), torch.autograd.grad(loss, leaves)))
    (ours, gradients), (plain, expected) = results
    assert all(wanted.norm() > 0 for wanted in expected)
    apart = (ours - plain).norm(dim=-1).max() / plain.norm(dim=-1).max()
    relative = max((g - wanted).norm() / wanted.norm() for g, wanted in zip(gradients, expected, strict=True))
    return float(apart) / 4e-6, float(relative) / 1e-5


@pytest.mark.parametrize(("n_ctx", "position"), [(16, "end"), (4, "end"), (1, "end"), (16, "middle")])
def test_a_context_that_all_classes_share(clip, n_ctx, position):
    ctx = draw(n_ctx, clip.text_dim).requires_grad_()
    assert max(differences(clip, [PromptedText(ctx, clip.class_tokens(NAMES, n_ctx, position))], ctx)) < 1


def test_deep_contexts_are_shared_too(clip):
    for first in (0, 1):
        ctx, deep = draw(4, clip.text_dim), draw(1, 4, clip.text_dim, seed=1).requires_grad_()
        assert max(differences(clip, [PromptedText(ctx, clip.class_tokens(NAMES, 4), deep, first)], deep)) < 1


def test_several_contexts_at_once(clip):
    contexts = [draw(8, clip.text_dim, seed=seed).requires_grad_() for seed in range(3)]
    names = (NAMES, NAMES[:4], ("cat", "dog", "fish"))
    texts = [PromptedText(ctx, clip.class_tokens(some, 8)) for ctx, some in zip(contexts, names, strict=True)]
    assert max(differences(clip, texts, *contexts)) < 1
    deep = [draw(1, 8, clip.text_dim, seed=seed).requires_grad_() for seed in range(3)]
    deeper = [PromptedText(text.ctx, text.tokens, more) for text, more in zip(texts, deep, strict=True)]
    assert max(differences(clip, deeper, *contexts, *deep)) < 1


def test_many_rows_are_done_in_parts(clip, monkeypatch):
    monkeypatch.setattr(openclip, "TEXT_ROWS", 4)
    ctx = draw(16, clip.text_dim).requires_grad_()
    assert max(differences(clip, [PromptedText(ctx, clip.class_tokens(NAMES, 16))], ctx)) < 1


def test_where_nothing_is_shared_the_plain_way_is_taken(clip):
    tokens = clip.class_tokens(NAMES, 4)
    whole = draw(4, clip.text_dim)
    assert prompted_sentences([PromptedText(whole, tokens)], clip.device) is not None
    each = PromptedText(draw(len(NAMES), 4, clip.text_dim), tokens)
    front = PromptedText(whole, clip.class_tokens(NAMES, 4, "front"))
    alone = PromptedText(whole, tokens.select([2]))
    deep = PromptedText(draw(4, clip.text_dim), clip.class_tokens(NAMES, 4, "middle"), draw(1, 4, clip.text_dim))
    for text in (each, front, alone, deep):
        assert prompted_sentences([text], clip.device) is None
        assert clip.encode_prompted_texts([text])[0].shape == (len(text.tokens.end), 16)


def test_words_of_a_template_are_shared(clip, monkeypatch):
    sentences = [f"a photo of one {name}." for name in NAMES]
    taken = []
    read = SharedPrefixTower.read
    monkeypatch.setattr(SharedPrefixTower, "read", lambda *given: taken.append(1) or read(*given))
    ours = clip.encode_text(sentences)
    assert taken
    monkeypatch.setattr(shared_prefix, "LEAST_SAVED", 2.0)
    plain = clip.encode_text(sentences)
    assert len(taken) == 1
    assert (ours - plain).norm(dim=-1).max() < 4e-6 * plain.norm(dim=-1).max()


def test_sentences_of_several_templates_form_groups(clip, monkeypatch):
    templates = ("a photo of one {}.", "an icon that shows some {}.", "a drawing by hand of the {}.")
    sentences = [template.format(name) for name in NAMES for template in templates]
    ids, end = clip._sentences.ids(sentences)
    grouped = plain_sentences(ids, end, clip._tower.table)
    assert grouped is not None
    assert grouped.prefix.shape[:2] == (3, 5)
    assert grouped.group.tolist() == grouped.group[:3].tolist() * len(NAMES)
    ours = clip.encode_text(sentences)
    monkeypatch.setattr(shared_prefix, "LEAST_SAVED", 2.0)
    plain = clip.encode_text(sentences)
    assert (ours - plain).norm(dim=-1).max() < 4e-6 * plain.norm(dim=-1).max()


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize("shape", SHAPES)
def test_low_precision_is_as_near_to_the_truth_as_the_plain_way(shape, precision):
    exact, clip = random_clip(shape), random_clip(shape, precision)
    ctx = draw(16, clip.text_dim)
    truth = exact.encode_prompted_texts([PromptedText(ctx, exact.class_tokens(NAMES, 16))])[0]
    text = PromptedText(ctx, clip.class_tokens(NAMES, 16))
    assert prompted_sentences([text], clip.device) is not None
    ours, plain = clip._encode_jointly([text]), Backbone._encode_jointly(clip, [text])
    assert (ours - truth).norm() < 1.5 * (plain - truth).norm() + 1e-3 * truth.norm()


def test_another_kind_of_tower_keeps_the_plain_way(clip):
    tower = clip._tower.module
    assert SharedPrefixTower.of(tower) is not None
    seen_whole = type("Tower", (), {"attn_mask": torch.zeros(3, 3), "transformer": tower.transformer})
    assert SharedPrefixTower.of(seen_whole) is None
    other = torch.nn.TransformerEncoderLayer(8, 2)
    blocks = type("Blocks", (), {"resblocks": [other]})
    assert SharedPrefixTower.of(type("Tower", (), {"attn_mask": tower.attn_mask, "transformer": blocks})) is None


def another_class(block: torch.nn.Module) -> None:
    block.__class__ = type(type(block).__name__, (type(block),), {})


CHANGES = {
    "hook": lambda block: block.register_forward_hook(lambda module, given, hidden: hidden * 1.5),
    "hook of attention": lambda block: block.attn.register_forward_hook(
        lambda module, given, pair: (pair[0] * 2, None)
    ),
    "forward": lambda block: setattr(block, "forward", lambda x, **options: x * 1.5),
    "subclass": another_class,
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_block_that_its_user_changed_keeps_the_plain_way(change):
    clip = random_clip("small")
    CHANGES[change](clip._tower.module.transformer.resblocks[0])
    text = PromptedText(draw(16, clip.text_dim), clip.class_tokens(NAMES, 16))
    assert torch.equal(clip._encode_jointly([text]), Backbone._encode_jointly(clip, [text]))


def test_cached_towers_share_too():
    from promptfed.backbones.text_tower_cache import RememberedBackbone, load_text_tower

    load_text_tower("tiny")
    tower = load_text_tower("tiny")
    assert isinstance(tower, RememberedBackbone)
    assert tower._tower.prefixes is not None
