"""A contract for the text towers of all architectures of the installed open_clip, at width 64 and two layers."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from typing import Any

import open_clip
import pytest
import torch
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor

from promptfed.backbones import load_backbone
from promptfed.backbones.base import PromptedText
from promptfed.backbones.openclip import OpenClipBackbone
from promptfed.backbones.shared_prefix import prompted_sentences
from promptfed.backbones.text_tower_kinds import installed_configs, kind_of
from promptfed.errors import BackboneError

from .shrunk_models import BIOMED, shrunk, write_encoders, write_tokenizers

CONFIGS = {**installed_configs(), "BiomedCLIP": BIOMED}
FEW = ["MobileCLIP-S1", "ViT-B-16-SigLIP", "ViT-B-16-SigLIP2", "ViT-L-14-CLIPA", "ViT-H-14-worldwide", "BiomedCLIP"]
"""One of each kind of tower and of tokenizer, for the fast suite."""
NAMES = ["cat", "grey_owl", "king of the owl"]
Build = Callable[[str], tuple[Any, Any]]


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """``build(architecture)``: open_clip's own shrunk model, with larger numbers than it draws, and its tokenizer."""
    folder = tmp_path_factory.mktemp("shrunk")
    tokenizers, encoders = write_tokenizers(folder), write_encoders(folder, 400)
    (folder / "configs").mkdir()
    for name, config in CONFIGS.items():
        (folder / "configs" / f"shrunk-{name}.json").write_text(json.dumps(shrunk(config, tokenizers, encoders)))
    open_clip.add_model_config(folder / "configs")
    usual = cache(SimpleTokenizer)

    def make(architecture: str) -> tuple[Any, Any]:
        text = CONFIGS[architecture]["text_cfg"]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = open_clip.create_model(f"shrunk-{architecture}", pretrained_text=False).eval()
        if text.get("hf_tokenizer_name"):
            return model, open_clip.get_tokenizer(f"shrunk-{architecture}")
        return model, usual(context_length=text["context_length"])

    return make


def is_near(ours: Tensor, theirs: Tensor) -> bool:
    return bool((ours - theirs).norm() <= 1e-6 * theirs.norm())


def check_contract(backbone: OpenClipBackbone, model: Any, tokenizer: Any) -> None:
    """A prompt of real words is the sentence with these words; all of a prompt is seen; padding as the kind says."""

    def truth(*texts: str) -> Tensor:
        with torch.no_grad():
            features: Tensor = model.encode_text(tokenizer(list(texts)))
        return features

    names = [name.replace("_", " ") for name in NAMES]
    plain = truth(*(f"{name}." for name in names))
    assert is_near(backbone.encode_text(["a cat.", "", "grey owl"]), truth("a cat.", "", "grey owl"))
    tokens = backbone.class_tokens(NAMES, 0)
    none = torch.zeros(0, backbone.text_dim)
    assert is_near(backbone.encode_prompted_text(none, tokens), plain)
    long, short = "a photo of a", "a"
    fits = backbone.context_length > 16
    words = backbone.embed_words(long if fits else short)
    tokens = backbone.class_tokens(NAMES, len(words))
    sentences = [f"{long if fits else short} {name}." for name in names]
    prompted = backbone.encode_prompted_text(words, tokens)
    assert is_near(prompted, truth(*sentences))
    if len(backbone.embed_words("a photo")) * 2 == len(words):
        between = backbone.class_tokens(NAMES, len(words), "middle")
        assert is_near(backbone.encode_prompted_text(words, between), truth(*(f"a photo {n} of a." for n in names)))
    drawn = torch.randn(2, backbone.text_dim, generator=torch.Generator().manual_seed(1), requires_grad=True)
    others = backbone.class_tokens(NAMES[:2], 2)
    both = backbone.encode_prompted_texts([PromptedText(words, tokens), PromptedText(drawn, others)])
    assert is_near(both[0], prompted), "texts of another length go along"
    (gradient,) = torch.autograd.grad((both[1] * torch.linspace(-1, 1, both[1].shape[1])).sum(), drawn)
    assert (gradient.norm(dim=1) > 1e-6).all()
    check_padding(backbone, others, drawn.detach())


def check_padding(backbone: OpenClipBackbone, tokens: Any, ctx: Tensor) -> None:
    vectors, kind = tokens.with_context(ctx), backbone._tower.kind
    if kind.is_cut:
        assert vectors.shape[1] == int(tokens.end.max()) + 1
        longer = torch.cat([vectors, torch.ones(2, 3, backbone.text_dim)], 1)
        assert is_near(backbone.encode_embeddings(longer, tokens.end), backbone.encode_embeddings(vectors, tokens.end))
        return
    assert vectors.shape[1] == backbone.context_length
    with pytest.raises(BackboneError, match=f"it needs all {backbone.context_length}"):
        backbone.encode_embeddings(vectors[:, :-1], tokens.end)
    other = vectors.clone()
    other[:, -2] += ctx[0]
    assert not is_near(backbone.encode_embeddings(other, tokens.end), backbone.encode_embeddings(vectors, tokens.end))


def check(architecture: str, build: Build) -> None:
    kind = kind_of(CONFIGS[architecture])
    if kind.refusal:
        with pytest.raises(BackboneError, match=f"{architecture}.* has a text tower .*{kind.refusal}"):
            load_backbone(f"open_clip:{architecture}/none.pt")
        if CONFIGS[architecture]["text_cfg"].get("hf_model_name"):
            return  # open_clip builds no class token beside an encoder
    model, tokenizer = build(architecture)
    if kind.refusal:
        with pytest.raises(BackboneError, match=f"backbone 'mine' has a text tower .*{kind.refusal}"):
            OpenClipBackbone("mine", model, tokenizer)
        return
    backbone = OpenClipBackbone("mine", model, tokenizer)
    assert backbone._tower.kind == kind
    check_contract(backbone, model, tokenizer)


@pytest.mark.parametrize("architecture", FEW)
def test_one_of_each_kind(architecture: str, build: Build) -> None:
    check(architecture, build)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", sorted(set(CONFIGS) - set(FEW)))
def test_all_architectures(architecture: str, build: Build) -> None:
    check(architecture, build)


def test_a_context_that_leaves_no_room_is_refused_with_the_number(build: Build) -> None:
    backbone = OpenClipBackbone("PE", *build("PE-Core-B-16"))
    assert backbone.context_length == 32
    long = " ".join(["owl"] * 20)
    with pytest.raises(BackboneError, match=r"with 16 context tokens takes 39 tokens.*at most 32.*at most 9\)"):
        backbone.class_tokens(["cat", long], 16)
    assert backbone.class_tokens(["cat", long], 9).end.tolist() == [12, 31]


def test_end_of_sequence_towers_share_their_context(build: Build) -> None:
    backbone = OpenClipBackbone("worldwide", *build("ViT-L-14-worldwide"))
    ctx = torch.randn(8, backbone.text_dim, generator=torch.Generator().manual_seed(0))
    text = PromptedText(ctx, backbone.class_tokens(NAMES, 8))
    assert prompted_sentences([text], backbone.device) is not None
    shared = backbone.encode_prompted_texts([text])[0]
    backbone._tower.prefixes = None  # type: ignore[misc] # a cached property
    assert is_near(shared, backbone.encode_prompted_texts([text])[0])


def test_deep_contexts_where_a_tower_has_them(build: Build) -> None:
    whole, masked = (OpenClipBackbone("mine", *build(name)) for name in ("MobileCLIP-S1", "BiomedCLIP"))
    ctx = torch.randn(2, 64, generator=torch.Generator().manual_seed(0))
    deep = torch.zeros(1, 2, 64, requires_grad=True)
    tokens = whole.class_tokens(NAMES, 2)
    features = whole.encode_prompted_text(ctx, tokens, deep)
    assert torch.autograd.grad(features.square().sum(), deep)[0].norm(dim=2).min() > 1e-6
    assert not is_near(features, whole.encode_prompted_text(ctx, tokens))
    assert "deep text prompts" in whole.abilities
    assert "deep text prompts" not in masked.abilities
    with pytest.raises(BackboneError, match="no deep text prompts"):
        masked.encode_prompted_text(ctx, masked.class_tokens(NAMES, 2), deep)


def test_a_tokenizer_that_does_not_belong_is_refused(build: Build) -> None:
    models = {name: build(name) for name in ("ViT-H-14-worldwide", "BiomedCLIP", "ViT-B-16-SigLIP")}
    for name, other, why in (
        ("ViT-H-14-worldwide", "ViT-B-16-SigLIP", r"read at the token id 2, but its tokenizer ends a text with \[1\]"),
        ("BiomedCLIP", "ViT-H-14-worldwide", "hides padding of id 0, but its tokenizer pads with 1"),
    ):
        with pytest.raises(BackboneError, match=why):
            OpenClipBackbone("mine", models[name][0], models[other][1])
    huge = OpenClipBackbone("mine", models["ViT-B-16-SigLIP"][0], SimpleTokenizer(context_length=64))
    with pytest.raises(BackboneError, match=r"gives the id 4\d{4}, but its text tower has 400 embeddings"):
        huge.encode_text(["cat"])


def test_words_of_a_tokenizer_have_hyphens_where_they_are_joined(build: Build) -> None:
    for name in ("ViT-B-16-SigLIP", "ViT-L-14-CLIPA"):
        backbone = OpenClipBackbone("mine", *build(name))
        listed = backbone.token_embeddings()
        whole = [word for word in listed.words if word.isalpha() and len(backbone.embed_words(word)) == 1]
        assert len(whole) > 5
        for word in whole:
            assert torch.equal(listed.vectors[listed.words.index(word)], backbone.embed_words(word)[0])
        assert any(word.startswith("-") and word[1:].isalpha() for word in listed.words), "pieces that follow others"
        assert not {"</s>", "[SEP]"} & set(listed.words)


def test_towers_with_other_tokenizers_have_other_fingerprints(build: Build) -> None:
    model, tokenizer = build("ViT-B-16-SigLIP")
    _, other = build("ViT-B-16-SigLIP2")
    prints = {OpenClipBackbone("mine", model, each).fingerprint for each in (tokenizer, tokenizer, other)}
    assert len(prints) == 2
