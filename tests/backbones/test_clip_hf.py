from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from open_clip.tokenizer import SimpleTokenizer
from PIL import Image
from safetensors.torch import load_file, save_file

from promptfed.backbones import load_backbone
from promptfed.backbones.clip_hf_tokens import FolderTokenizer
from promptfed.backbones.openclip import OpenClipBackbone
from promptfed.errors import BackboneError

from .hf_folders import MERGES, SIZE, features, save_clip

TEXTS = ["a photo of a cat.", "It's 23 Größen!!", "a", "cat of  CATS\n(#7)"]


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A folder with a small random CLIP, and transformers' model."""
    folder = tmp_path_factory.mktemp("hf") / "clip"
    return folder, save_clip(folder)


@pytest.fixture
def copy(clip: tuple[Path, Any], tmp_path: Path) -> Callable[..., Path]:
    """``copy("config.json", hidden_act="relu")``: the folder with another value in a file; None removes the file."""

    def make(file: str, change: Callable[[Any], Any] | None) -> Path:
        folder = tmp_path / "copy"
        shutil.copytree(clip[0], folder)
        if change is None:
            (folder / file).unlink()
        else:
            (folder / file).write_text(json.dumps(change(json.loads((folder / file).read_text()))))
        return folder

    return make


def tokenizer_of(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def check_equal(folder: Path, model: Any) -> OpenClipBackbone:
    backbone = load_backbone(f"clip-hf:{folder}")
    assert isinstance(backbone, OpenClipBackbone)
    tokens = tokenizer_of(folder)(TEXTS, padding=True, return_tensors="pt")
    pixels = torch.rand(3, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        texts = features(model.get_text_features(**tokens))
        images = features(model.get_image_features(pixel_values=pixels))
    assert texts.std(0).min() > 0.05
    assert torch.allclose(backbone.encode_text(TEXTS), texts, atol=1e-5)
    assert torch.allclose(backbone.encode_images(pixels), images, atol=1e-5)
    assert backbone.logit_scale == pytest.approx(float(model.logit_scale.detach().exp()))
    return backbone


def test_features_are_those_of_transformers(clip: tuple[Path, Any]) -> None:
    backbone = check_equal(*clip)
    assert backbone.text_dim, backbone.embed_dim == (32, 24)
    assert backbone.abilities == {"deep text prompts", "visual prompts", "patch features"}
    context = backbone.embed_words("a photo of a")
    prompted = backbone.encode_prompted_text(context, backbone.class_tokens(["cat"], len(context)))
    assert torch.allclose(prompted, backbone.encode_text(["a photo of a cat."]), atol=1e-5)


@pytest.mark.parametrize(
    "options", [{"activation": "gelu"}, {"activation": "gelu_pytorch_tanh", "layer_norm_eps": 1e-3}]
)
def test_activation_and_normalisation_are_the_configs(options: dict[str, Any], tmp_path: Path) -> None:
    check_equal(tmp_path, save_clip(tmp_path, **options))


def test_an_end_token_need_not_have_the_highest_id(tmp_path: Path) -> None:
    save_clip(tmp_path)
    config, words = (json.loads((tmp_path / file).read_text()) for file in ("config.json", "tokenizer.json"))
    vocabulary, stop = words["model"]["vocab"], "<|endoftext|>"
    end, cat = vocabulary[stop], vocabulary["cat</w>"]
    text = json.dumps(words).replace(f'"cat</w>": {cat}', f'"cat</w>": {end}')
    for form in (f'"{stop}": %d', f'"{stop}", %d', '"id": %d,', '"ids": [%d]'):
        text = text.replace(form % end, form % cat)
    (tmp_path / "tokenizer.json").write_text(text)
    config["text_config"]["eos_token_id"] = cat
    (tmp_path / "config.json").write_text(json.dumps(config))
    from transformers import CLIPModel

    backbone = check_equal(tmp_path, CLIPModel.from_pretrained(tmp_path).eval())
    assert backbone._sentences.frame.after == (cat,)
    assert "cat" in " ".join(TEXTS)
    assert backbone._tower.kind.name == "causal-eos"


def test_an_older_folder_reads_alike(clip: tuple[Path, Any], tmp_path: Path) -> None:
    """Half precision, weights in a pickle or in parts, the largest id as end token, vocab.json with merges.txt."""
    folder = tmp_path / "old"
    shutil.copytree(clip[0], folder)
    config = json.loads((folder / "config.json").read_text())
    config["text_config_dict"] = {**config["text_config"], "eos_token_id": 2}
    config["text_config"] = {"hidden_size": 1}
    (folder / "config.json").write_text(json.dumps(config))
    words = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.json").write_text(json.dumps(words))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(map(" ".join, MERGES)))
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    parts = {"model-1-of-2.safetensors": names[::2], "model-2-of-2.safetensors": names[1::2]}
    for file, some in parts.items():
        save_file({name: tensors[name] for name in some}, folder / file)
    places = {name: file for file, some in parts.items() for name in some}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    new, old = (load_backbone(f"clip-hf:{path}") for path in (clip[0], folder))
    assert new.fingerprint == old.fingerprint
    assert torch.equal(new.encode_text(TEXTS), old.encode_text(TEXTS))
    (folder / "model.safetensors.index.json").unlink()
    torch.save({name: tensor.half() for name, tensor in tensors.items()}, folder / "pytorch_model.bin")
    half = load_backbone(f"clip-hf:{folder}")
    assert torch.allclose(half.encode_text(TEXTS), new.encode_text(TEXTS), atol=1e-2)
    assert half.fingerprint != new.fingerprint


def test_token_ids_are_those_of_transformers(clip: tuple[Path, Any]) -> None:
    backbone = load_backbone(f"clip-hf:{clip[0]}")
    assert isinstance(backbone, OpenClipBackbone)
    words = tokenizer_of(clip[0])
    for text in TEXTS:
        assert backbone._sentences.encode(text) == words(text).input_ids[1:-1]
        ids, end = backbone._sentences.ids([text])
        assert ids[0, : int(end) + 1].tolist() == words(text).input_ids
    assert {"cat", "pho-"} <= set(backbone.token_embeddings().words)


def test_open_clips_own_vocabulary_has_open_clips_fingerprint() -> None:
    """The same weights then have the same cached features under both names; other words have others."""
    from transformers import CLIPTokenizer

    usual = SimpleTokenizer()
    names = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    words = {names.get(word, word): number for word, number in usual.encoder.items()}
    merges = list(usual.bpe_ranks)
    same = FolderTokenizer(CLIPTokenizer(vocab=words, merges=merges).backend_tokenizer)
    assert same.fingerprint == ""
    swapped = {**words, "cat</w>": words["dog</w>"], "dog</w>": words["cat</w>"]}
    other = FolderTokenizer(CLIPTokenizer(vocab=swapped, merges=merges).backend_tokenizer)
    assert len(other.fingerprint) == 64


def ramp(width: int, height: int) -> Image.Image:
    """A picture with slopes and edges, whose every crop is another."""
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    channels = [(3 * x + y) % 256, 255 * ((x // 9 + y // 7) % 2), (x * y // 5) % 256]
    return Image.fromarray(np.stack(channels, -1).astype(np.uint8))


def processor_of(folder: Path, name: str) -> Any:
    """Return transformers' processor that resizes as promptfed does, by Pillow."""
    transformers = pytest.importorskip("transformers")
    kind = getattr(transformers, f"{name}Pil", None) or getattr(transformers, name)
    return kind.from_pretrained(folder)


def check_pixels(folder: Path, image: Image.Image, processor: str = "CLIPImageProcessor") -> None:
    mine = load_backbone(f"clip-hf:{folder}").preprocess(image)
    theirs = torch.as_tensor(np.asarray(processor_of(folder, processor)(image, return_tensors="np")["pixel_values"]))[0]
    assert torch.allclose(mine, theirs, atol=1e-5)


def test_images_are_prepared_as_transformers_does(clip: tuple[Path, Any], copy: Callable[..., Path]) -> None:
    check_pixels(clip[0], ramp(200, 120))
    folder = copy(
        "preprocessor_config.json",
        lambda content: {
            **content, "size": {"height": 40, "width": 36}, "crop_size": SIZE, "resample": 2,
            "rescale_factor": 1 / 127.5, "image_mean": [1, 0.9, 0.8],
        },
    )  # fmt: skip
    check_pixels(folder, ramp(90, 131))


def test_a_photograph_is_prepared_as_transformers_does(clip: tuple[Path, Any], photos: Path) -> None:
    for path in sorted(photos.rglob("*.jpg"))[:3]:
        image = Image.open(path).convert("RGB")
        width, height = image.size
        image = image.crop((0, 0, min(width, height), min(width, height)))  # no side to cut off: see the docs
        check_pixels(clip[0], image)


def test_bfloat16(clip: tuple[Path, Any]) -> None:
    full, low = (load_backbone(f"clip-hf:{clip[0]}", precision=word) for word in ("float32", "bfloat16"))
    assert torch.cosine_similarity(full.encode_text(TEXTS), low.encode_text(TEXTS)).min() > 0.99
    pixels = torch.rand(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(2))
    assert torch.cosine_similarity(full.encode_images(pixels), low.encode_images(pixels)).min() > 0.99


def test_a_name_is_fetched_from_the_hub(clip: tuple[Path, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    fetched = []

    def fetch(repository: str, allow_patterns: list[str]) -> str:
        fetched.append((repository, allow_patterns))
        return str(clip[0])

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    backbone = load_backbone("clip-hf:some/clip")
    assert backbone.name == "clip-hf:some/clip"
    assert backbone.fingerprint == load_backbone(f"clip-hf:{clip[0]}").fingerprint
    assert [name for name, _ in fetched] == ["some/clip"]
    assert not any(pattern.endswith((".py", ".bin")) for pattern in fetched[0][1])


def test_offline_names_the_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def refuse(*_: Any, **__: Any) -> str:
        raise OSError("no route\nto host")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(BackboneError, match="hf download some/clip --local-dir FOLDER") as raised:
        load_backbone("clip-hf:some/clip")
    assert "\n" not in str(raised.value)


def framed(tokenizer: dict[str, Any], start: int) -> dict[str, Any]:
    """Return ``tokenizer`` with another id for its start token in what it puts around a text."""
    text = json.dumps(tokenizer)
    processor = json.loads(text)["post_processor"]
    if "cls" in processor:
        processor["cls"][1] = start
    else:
        next(iter(processor["special_tokens"].values()))["ids"] = [start]
    return {**tokenizer, "post_processor": processor}


@pytest.mark.parametrize(
    ("file", "change", "words"),
    [
        ("config.json", lambda c: {**c, "model_type": "siglip2"}, "images have no fixed size"),
        ("config.json", lambda c: {**c, "model_type": "blip", "auto_map": {"AutoModel": "x.py"}}, "type 'blip'"),
        ("config.json", lambda c: {**c, "text_config": {**c["text_config"], "hidden_act": "relu"}}, "act 'relu'"),
        ("config.json", lambda c: {**c, "text_config": {**c["text_config"], "num_hidden_layers": 10**9}}, "1 to 256"),
        ("config.json", lambda c: {**c, "text_config": {**c["text_config"], "num_hidden_layers": 3}}, "lack"),
        ("config.json", lambda c: {**c, "text_config": {**c["text_config"], "num_hidden_layers": 1}}, "unknown"),
        ("config.json", lambda c: {**c, "text_config": {**c["text_config"], "intermediate_size": 76}}, "do not fit"),
        ("config.json", lambda c: {**c, "text_config": {**c["text_config"], "eos_token_id": 5}}, "read at token 5"),
        ("config.json", lambda c: {**c, "vision_config": {**c["vision_config"], "hidden_act": "gelu"}}, "takes one"),
        ("config.json", lambda c: [c], "not a JSON object"),
        ("preprocessor_config.json", lambda c: {**c, "crop_size": 16}, "16 x 16 pixels, but the model takes 32 x 32"),
        ("preprocessor_config.json", lambda c: {**c, "image_processor_type": "BlipImageProcessor"}, "BlipImageProc"),
        ("preprocessor_config.json", lambda c: {**c, "image_std": 0}, "not above 0"),
        ("preprocessor_config.json", None, "holds no preprocessor_config.json"),
        ("tokenizer.json", None, "neither tokenizer.json nor vocab.json"),
        ("tokenizer.json", lambda c: {"model": c["model"]}, "0 tokens around a text"),
        ("tokenizer.json", lambda c: {"model": 1}, "tokenizer.json does not load"),
        ("tokenizer.json", lambda c: framed(c, 10**9), "puts a text between tokens"),
        ("model.safetensors", None, "holds no model.safetensors"),
    ],
)  # fmt: skip
def test_what_cannot_be_computed_alike_is_refused(
    file: str, change: Any, words: str, copy: Callable[..., Path]
) -> None:
    folder = copy(file, change)
    with pytest.raises(BackboneError, match=words) as raised:
        load_backbone(f"clip-hf:{folder}")
    assert "\n" not in str(raised.value)
    assert str(raised.value).startswith(f"backbone 'clip-hf:{folder}'")


def test_a_missing_folder_is_named() -> None:
    with pytest.raises(BackboneError, match="there is no such folder"):
        load_backbone("clip-hf:./nowhere")
    with pytest.raises(BackboneError, match="names no model"):
        load_backbone("clip-hf:")
