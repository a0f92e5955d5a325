"""SigLIP folders: read at the last position, padded to the full length, with a bias of the logits."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from promptfed.backbones import load_backbone
from promptfed.backbones.clip_hf_config import ClipConfig, parse_config
from promptfed.backbones.clip_hf_pieces import canonical, read_piece_tokenizer
from promptfed.backbones.openclip import OpenClipBackbone
from promptfed.backbones.text_tokenizers import text_tokenizer
from promptfed.errors import BackboneError, FormatError

from .hf_folders import SIZE, features, save_siglip
from .test_clip_hf import check_pixels, ramp

LENGTH = 20
TEXTS = ["a photo of a cat", "It's 23 cats!!", "a", "CAT of cats (#7)."]


@pytest.fixture(scope="session")
def siglip(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A folder with a small random SigLIP, and transformers' model."""
    folder = tmp_path_factory.mktemp("hf") / "siglip"
    return folder, save_siglip(folder)


def check_equal(folder: Path, model: Any) -> OpenClipBackbone:
    from transformers import AutoTokenizer

    backbone = load_backbone(f"clip-hf:{folder}")
    assert isinstance(backbone, OpenClipBackbone)
    words = AutoTokenizer.from_pretrained(folder)
    ids = words(TEXTS, padding="max_length", max_length=LENGTH, return_tensors="pt").input_ids
    assert torch.equal(backbone._sentences.ids(TEXTS)[0], ids)
    pixels = torch.rand(3, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        texts = features(model.get_text_features(input_ids=ids))
        images = features(model.get_image_features(pixel_values=pixels))
    assert texts.std(0).min() > 0.02
    assert torch.allclose(backbone.encode_text(TEXTS), texts, atol=1e-5)
    assert torch.allclose(backbone.encode_images(pixels), images, atol=1e-5)
    return backbone


def test_features_and_ids_are_those_of_transformers(siglip: tuple[Path, Any]) -> None:
    backbone = check_equal(*siglip)
    assert backbone.logit_scale == pytest.approx(2.718281828**2)
    assert backbone.logit_bias == -10.0
    check_pixels(siglip[0], ramp(90, 131), "SiglipImageProcessor")


def test_a_context_of_words_is_the_text_and_gets_a_gradient(siglip: tuple[Path, Any]) -> None:
    backbone = load_backbone(f"clip-hf:{siglip[0]}")
    context = backbone.embed_words("a photo of a").requires_grad_()
    prompted = backbone.encode_prompted_text(context, backbone.class_tokens(["cat"], len(context)))
    assert torch.allclose(prompted, backbone.encode_text(["a photo of a cat."]), atol=1e-5)
    prompted.square().sum().backward()
    assert context.grad is not None
    assert context.grad.abs().sum(1).min() > 0


@pytest.mark.parametrize("options", [{"activation": "gelu", "projection_size": 32}, {"activation": "quick_gelu"}])
def test_other_activations(options: dict[str, Any], tmp_path: Path) -> None:
    check_equal(tmp_path, save_siglip(tmp_path, **options))


def test_bfloat16_keeps_the_bias(siglip: tuple[Path, Any]) -> None:
    full, low = (load_backbone(f"clip-hf:{siglip[0]}", precision=word) for word in ("float32", "bfloat16"))
    assert (low.logit_scale, low.logit_bias) == (full.logit_scale, full.logit_bias)
    assert torch.cosine_similarity(full.encode_text(TEXTS), low.encode_text(TEXTS)).min() > 0.99
    pixels = torch.rand(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(2))
    assert torch.cosine_similarity(full.encode_images(pixels), low.encode_images(pixels)).min() > 0.99


def test_sentence_piece_reads_as_transformers_does(siglip: tuple[Path, Any], tmp_path: Path) -> None:
    """SigLIP's own tokenizer, from spiece.model, and its pieces as a tokenizer.json of the same class."""
    sentencepiece = pytest.importorskip("sentencepiece")
    pytest.importorskip("google.protobuf")
    from tokenizers import Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import Unigram
    from transformers import SiglipTokenizer

    corpus = tmp_path / "corpus.txt"
    corpus.write_text(
        "\n".join(["a photo of a cat", "two dogs and 23 cats of mine", "it is a zebra", "quiz jam box"] * 9)
    )
    sentencepiece.SentencePieceTrainer.train(
        input=str(corpus), model_prefix=str(tmp_path / "spiece"), vocab_size=48, bos_id=-1, eos_id=1,
        hard_vocab_limit=False, model_type="unigram", unk_id=2, pad_id=0, add_dummy_prefix=False, minloglevel=2,
    )  # fmt: skip
    usual = SiglipTokenizer(vocab_file=str(tmp_path / "spiece.model"))
    config = config_of(siglip[0])
    texts = [*TEXTS, "  a  photo: of A cat.  ", ""]
    pieces = text_tokenizer("mine", read_piece_tokenizer(tmp_path, config))
    assert [pieces.encode(text) for text in texts] == [usual(text).input_ids[:-1] for text in texts]
    assert (pieces.frame.before, pieces.frame.after, pieces.frame.pad) == ((), (1,), 1)
    library = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "spiece.model"))
    scores = [(library.id_to_piece(number), library.get_score(number)) for number in range(len(library))]
    fast = Tokenizer(Unigram(scores, unk_id=2))
    fast.pre_tokenizer, fast.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    fast.add_special_tokens(["</s>", "<unk>"])
    fast.save(str(tmp_path / "tokenizer.json"))
    faster = text_tokenizer("mine", read_piece_tokenizer(tmp_path, config))
    assert [faster.encode(text) for text in texts] == [usual(text).input_ids[:-1] for text in texts]
    assert faster.frame == pieces.frame


def config_of(folder: Path) -> ClipConfig:
    return parse_config(json.loads((folder / "config.json").read_text()))


def test_texts_are_cleaned_as_siglip_was_trained() -> None:
    assert canonical("  A photo, of\tit's  CAT. ") == "a photo of its cat"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"padding_side": "left"}, "padding on the right"),
        ({"tokenizer_class": "T5Tokenizer"}, "its tokenizer is T5Tokenizer"),
        ({"eos_token": {"content": "<end>"}}, "no token '<end>'"),
        ({"eos_token": "<bos>"}, "around a text"),
    ],
)
def test_a_tokenizer_that_reads_otherwise_is_refused(
    change: dict[str, Any], words: str, siglip: tuple[Path, Any], tmp_path: Path
) -> None:
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(siglip[0] / file, tmp_path)
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(FormatError, match=words):
        read_piece_tokenizer(tmp_path, config_of(siglip[0]))


def test_towers_that_do_not_meet_are_refused(siglip: tuple[Path, Any], tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(siglip[0], folder)
    config = json.loads((folder / "config.json").read_text())
    config["vision_config"]["vision_use_head"] = False
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(BackboneError, match="vision_use_head false"):
        load_backbone(f"clip-hf:{folder}")
    config["vision_config"] = {**config["vision_config"], "vision_use_head": True, "hidden_size": [64, 63]}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(BackboneError, match="says hidden_size"):
        load_backbone(f"clip-hf:{folder}")
