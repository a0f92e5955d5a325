from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from torch import Tensor

from promptfed.backbones import load_backbone
from promptfed.backbones.openclip import TEXT_ROWS, OpenClipBackbone
from promptfed.errors import BackboneError, ConfigError

NAMES = ["cat", "tabby_cat", "grand piano with a very long name", "owl"]
Checkpoint = Callable[[str, str], Path]


def reference(checkpoint: Checkpoint, architecture: str, texts: list[str], dtype: str = "fp32") -> Tensor:
    """What open_clip itself says, with all 77 positions."""
    path = str(checkpoint(architecture, ".safetensors"))
    model = open_clip.create_model(architecture, pretrained=path, precision=dtype).eval()
    with torch.no_grad():
        features: Tensor = model.encode_text(open_clip.get_tokenizer(architecture)(texts)).float()
    return features


@pytest.mark.parametrize("architecture", ["small-clip", "small-custom"])
@pytest.mark.parametrize(
    ("position", "sentence"),
    [("end", "a photo of a {}."), ("middle", "a photo {} of a."), ("front", "{} a photo of a.")],
)
def test_prompted_text_is_open_clips_own(
    checkpoint: Checkpoint, architecture: str, position: str, sentence: str
) -> None:
    backbone = load_backbone(f"open_clip:{architecture}/{checkpoint(architecture, '.safetensors')}")
    tokens = backbone.class_tokens(NAMES, 4, position)
    found = backbone.encode_prompted_text(backbone.embed_words("a photo of a"), tokens)
    texts = [sentence.format(name.replace("_", " ")) for name in NAMES]
    torch.testing.assert_close(found, reference(checkpoint, architecture, texts), atol=1e-5, rtol=0)
    torch.testing.assert_close(found, backbone.encode_text(texts), atol=1e-5, rtol=0)
    assert tokens.n_ctx == 4
    assert tokens.embeddings.shape[1] == int(tokens.end.max()) + 1  # cut after the longest end token


@pytest.mark.parametrize("architecture", ["small-last", "small-bidirectional"])
def test_a_tower_that_reads_padding_is_never_cut(checkpoint: Checkpoint, architecture: str) -> None:
    backbone = load_backbone(f"open_clip:{architecture}/{checkpoint(architecture, '.safetensors')}")
    tokens = backbone.class_tokens(NAMES, 4)
    assert tokens.embeddings.shape[1] == 77
    found = backbone.encode_prompted_text(backbone.embed_words("a photo of a"), tokens)
    texts = [f"a photo of a {name.replace('_', ' ')}." for name in NAMES]
    torch.testing.assert_close(found, reference(checkpoint, architecture, texts), atol=1e-5, rtol=0)


def test_images_are_open_clips_own(small: OpenClipBackbone, checkpoint: Checkpoint) -> None:
    path = str(checkpoint("small-clip", ".safetensors"))
    model, _, transform = open_clip.create_model_and_transforms("small-clip", pretrained=path)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 40, 3), dtype=np.uint8))
    pixels = small.preprocess(picture)
    assert torch.equal(pixels, transform(picture))
    with torch.no_grad():
        expected = model.eval().encode_image(pixels[None])
    torch.testing.assert_close(small.encode_images(pixels[None]), expected, atol=1e-5, rtol=0)
    assert small.logit_scale == pytest.approx(model.logit_scale.exp().item())
    assert (small.embed_dim, small.text_dim, small.context_length) == (24, 32, 77)


def test_gradient_agrees_with_finite_differences(small: OpenClipBackbone) -> None:
    tokens = small.class_tokens(["cat", "grey owl"], 3, "middle")
    draw = torch.Generator().manual_seed(0)
    ctx = torch.randn(3, small.text_dim, generator=draw) * 0.1
    direction, weight = torch.randn(3, small.text_dim, generator=draw), torch.randn(2, 24, generator=draw)

    def objective(at: Tensor) -> Tensor:
        return (small.encode_prompted_text(at, tokens) * weight).sum()

    leaf = ctx.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(objective(leaf), leaf)
    step = 2e-3
    numeric = (objective(ctx + step * direction) - objective(ctx - step * direction)) / (2 * step)
    assert (gradient * direction).sum().item() == pytest.approx(numeric.item(), rel=2e-2)
    assert gradient.abs().max() > 0


def test_class_specific_context_is_read_by_its_own_class(small: OpenClipBackbone) -> None:
    tokens = small.class_tokens(["cat", "owl"], 2)
    ctx = torch.randn(2, 2, small.text_dim, generator=torch.Generator().manual_seed(0))
    both = small.encode_prompted_text(ctx, tokens)
    for row in range(2):
        alone = small.encode_prompted_text(ctx[row], tokens.select([row]))
        torch.testing.assert_close(both[row : row + 1], alone, atol=1e-5, rtol=0)


def test_many_classes_go_in_parts_with_the_same_result_and_gradient(small: OpenClipBackbone) -> None:
    names = [f"thing {number}" for number in range(TEXT_ROWS + 5)]
    tokens = small.class_tokens(names, 2)
    ctx = torch.randn(2, small.text_dim, generator=torch.Generator().manual_seed(0), requires_grad=True)
    features = small.encode_prompted_text(ctx, tokens)
    (gradient,) = torch.autograd.grad(features.sum(), ctx)
    halves = [small.encode_prompted_text(ctx, tokens.select(part)) for part in (range(99), range(99, len(names)))]
    (expected,) = torch.autograd.grad(torch.cat(halves).sum(), ctx)
    torch.testing.assert_close(features, torch.cat(halves), atol=1e-5, rtol=0)
    torch.testing.assert_close(gradient, expected, atol=1e-3, rtol=1e-3)
    assert len(small.encode_text(names)) == len(names)


@pytest.mark.parametrize(("position", "places"), [("end", [1, 2, 3]), ("middle", [1, 3, 4]), ("front", [2, 3, 4])])
def test_slots_stand_where_the_position_says(small: OpenClipBackbone, position: str, places: list[int]) -> None:
    tokens = small.class_tokens(["cat", "giant_panda"], 3, position)
    ctx = torch.arange(3.0)[:, None].expand(3, small.text_dim) + 1
    assert tokens.slots[0].tolist() == places
    assert tokens.end.tolist() == [6, 7]  # start, 3 slots, the name, full stop, end
    assert not tokens.embeddings[0, places].any()
    assert torch.equal(tokens.with_context(ctx)[0, places], ctx)
    others = [place for place in range(8) if place not in places]
    assert torch.equal(tokens.with_context(ctx)[0, others], tokens.embeddings[0, others])


def test_calls_count_items(small: OpenClipBackbone) -> None:
    images, texts = small.calls.images, small.calls.texts
    small.encode_images(torch.zeros(3, 3, 32, 32))
    small.encode_text(["a", "b"])
    small.encode_prompted_text(torch.zeros(1, small.text_dim), small.class_tokens(NAMES, 1))
    assert (small.calls.images - images, small.calls.texts - texts) == (3, 2 + len(NAMES))


def test_made_in_inference_mode_used_in_training(small: OpenClipBackbone) -> None:
    with torch.inference_mode():
        tokens, words = small.class_tokens(["cat"], 1), small.embed_words("photo")
    ctx = words.clone().requires_grad_()
    small.encode_prompted_text(ctx, tokens).sum().backward()
    assert ctx.grad is not None


def test_too_long_names_the_text_and_the_limit(small: OpenClipBackbone) -> None:
    assert small.encode_text(["dog " * 75]).shape == (1, 24)
    with pytest.raises(BackboneError, match=r"takes 78 tokens.*at most 77"):
        small.encode_text(["cat", "dog " * 76])
    with pytest.raises(BackboneError, match=r"class 'cat' with 74 context tokens takes 78 tokens"):
        small.class_tokens(["cat"], 74)
    with pytest.raises(BackboneError, match="empty list of classes"):
        small.class_tokens([], 4)


def test_a_changed_weight_is_noticed(checkpoint: Checkpoint) -> None:
    model = open_clip.create_model("small-clip", pretrained=str(checkpoint("small-clip", ".pt")))
    backbone = OpenClipBackbone("mine", model, open_clip.get_tokenizer("small-clip"))
    backbone.verify_frozen()
    before = backbone.fingerprint
    assert not any(p.requires_grad for p in model.parameters())
    with torch.no_grad():
        model.ln_final.bias[0] += 1e-6
    with pytest.raises(BackboneError, match="changed during the run"):
        backbone.verify_frozen()
    assert backbone.fingerprint == before  # fixed at loading


def test_the_same_weights_have_one_fingerprint_and_others_another(
    checkpoint: Checkpoint, small: OpenClipBackbone
) -> None:
    plain = load_backbone(f"open_clip:small-clip/{checkpoint('small-clip', '.pt')}")
    assert plain.fingerprint == small.fingerprint
    half = load_backbone(f"open_clip:small-clip/{checkpoint('small-clip', '.pt')}", precision="bfloat16")
    assert half.fingerprint != small.fingerprint


@pytest.mark.parametrize(("precision", "short", "tolerance"), [("bfloat16", "bf16", 0.05), ("float16", "fp16", 0.01)])
def test_narrow_precision_reads_a_float32_prompt(
    checkpoint: Checkpoint, small: OpenClipBackbone, precision: str, short: str, tolerance: float
) -> None:
    backbone = load_backbone(f"open_clip:small-clip/{checkpoint('small-clip', '.safetensors')}", precision=precision)
    ctx = backbone.embed_words("a photo of a").clone().requires_grad_()
    features = backbone.encode_prompted_text(ctx, backbone.class_tokens(["cat"], 4))
    assert features.dtype == ctx.dtype == torch.float32
    features.sum().backward()
    assert torch.isfinite(ctx.grad).all()
    own = reference(checkpoint, "small-clip", ["a photo of a cat."], short)
    torch.testing.assert_close(features, own, atol=tolerance, rtol=tolerance)
    wide = small.encode_text(["a photo of a cat."])
    assert torch.cosine_similarity(features, wide).item() > 0.999
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.cosine_similarity(backbone.encode_images(images), small.encode_images(images)).min().item() > 0.999


def test_loading_leaves_the_global_generator_alone(checkpoint: Checkpoint) -> None:
    before = torch.get_rng_state()
    load_backbone(f"open_clip:small-clip/{checkpoint('small-clip', '.safetensors')}")
    assert torch.equal(torch.get_rng_state(), before)


def test_other_text_towers_are_refused(checkpoint: Checkpoint) -> None:
    with pytest.raises(BackboneError, match=r"small-cls.*cannot prompt.*appends a class token"):
        load_backbone(f"open_clip:small-cls/{checkpoint('small-cls', '.pt')}")


def test_other_tokenizers_are_refused(small_architectures: Path) -> None:
    model = open_clip.create_model("small-clip", pretrained=None)
    with pytest.raises(BackboneError, match="uses the tokenizer str"):
        OpenClipBackbone("mine", model, "words")


def test_wrong_names_say_what_is_meant(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown open_clip model 'ViT-B-61'. Did you mean 'ViT-B-16'"):
        load_backbone("open_clip:ViT-B-61/openai")
    with pytest.raises(ConfigError, match=r"unknown open_clip weights for ViT-B-16 'opnai'. Did you mean 'openai'"):
        load_backbone("open_clip:ViT-B-16/opnai")
    with pytest.raises(BackboneError, match=r"names no weights.*openai"):
        load_backbone("open_clip:ViT-B-16")
    with pytest.raises(BackboneError, match=r"none\.safetensors' does not exist"):
        load_backbone(f"open_clip:ViT-B-16/{tmp_path / 'none.safetensors'}")
    with pytest.raises(ConfigError, match="precision 'int8' is for language models"):
        load_backbone("open_clip:ViT-B-16/openai", precision="int8")


def test_offline_and_not_cached_names_the_offline_backbones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise ConnectionError("no route to host\nand more")

    monkeypatch.setattr("open_clip.pretrained.download_pretrained", unreachable)
    with pytest.raises(BackboneError, match=r"offline\? \(no route to host and more\).*'tiny' and 'lit'"):
        load_backbone("open_clip:ViT-B-16/openai")


def test_a_checkpoint_that_does_not_fit_is_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(BackboneError, match=r"does not load as weights of small-clip"):
        load_backbone(f"open_clip:small-clip/{checkpoint('small-custom', '.pt')}")
    garbage = tmp_path / "garbage.pt"
    garbage.write_bytes(b"not a checkpoint")
    with pytest.raises(BackboneError, match="does not load as weights"):
        load_backbone(f"open_clip:small-clip/{garbage}")


class Shout:
    """Runs code when unpickled without care."""

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return (Path.touch, (Path("shouted"),))


def test_a_pickle_is_never_executed(tmp_path: Path, small_architectures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    evil = tmp_path / "evil.pt"
    evil.write_bytes(pickle.dumps({"weight": Shout()}, protocol=2))
    with pytest.raises(BackboneError, match="does not load as weights"):
        load_backbone(f"open_clip:small-clip/{evil}")
    torch.save({"weight": Shout()}, evil)
    with pytest.raises(BackboneError, match="does not load as weights"):
        load_backbone(f"open_clip:small-clip/{evil}")
    assert not (tmp_path / "shouted").exists()


def test_tags_trained_on_quick_gelu_get_it(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plain architecture has GELU; the tag says its weights were trained with QuickGELU."""
    path = str(checkpoint("small-clip", ".safetensors"))
    from open_clip import pretrained

    monkeypatch.setitem(pretrained._PRETRAINED, "small-clip", {"quick": {"file": path, "quick_gelu": True}})
    tagged = load_backbone("open_clip:small-clip/quick")
    model = open_clip.create_model("small-clip", pretrained=path, force_quick_gelu=True).eval()
    with torch.no_grad():
        expected = model.encode_text(open_clip.get_tokenizer("small-clip")(["a cat."]))
    torch.testing.assert_close(tagged.encode_text(["a cat."]), expected, atol=1e-5, rtol=0)
    recognised = load_backbone(f"open_clip:small-clip/{path}")
    assert recognised.fingerprint == tagged.fingerprint
    plain = load_backbone(f"open_clip:small-clip/{path}?activation=gelu")
    assert (plain.encode_text(["a cat."]) - expected).abs().max() > 1e-4
    assert plain.weights_sha256() == tagged.weights_sha256()
    assert plain.fingerprint != tagged.fingerprint  # else they would share cached features
