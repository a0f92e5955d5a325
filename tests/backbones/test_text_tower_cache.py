from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from PIL import Image

from promptfed.backbones import load_backbone, text_tower_cache
from promptfed.backbones.text_tower_cache import ABOUT, TOKENS, TOWER, RememberedBackbone, load_text_tower
from promptfed.errors import BackboneError


@pytest.fixture(scope="module")
def pair():
    load_text_tower("tiny")
    return load_backbone("tiny"), load_text_tower("tiny")


def test_the_second_load_has_no_image_tower_and_the_same_bits(pair):
    whole, text = pair
    assert isinstance(text, RememberedBackbone)
    assert text._full is None
    assert text.fingerprint == whole.fingerprint
    classes, ctx = ["paper plane", "cat"], torch.randn(4, whole.text_dim, generator=torch.Generator().manual_seed(1))
    found = []
    for backbone in (whole, text):
        vectors = ctx.clone().requires_grad_()
        features = backbone.encode_prompted_text(vectors, backbone.class_tokens(classes, 4))
        features.square().sum().backward()
        found.append((features, vectors.grad, backbone.encode_text(["a cat"]), backbone.embed_words("a photo of")))
    assert all(torch.equal(*both) for both in zip(*found, strict=True))
    deep = torch.randn(2, 4, whole.text_dim, generator=torch.Generator().manual_seed(2))
    deeply = [b.encode_prompted_text(ctx, b.class_tokens(classes, 4), deep) for b in (whole, text)]
    assert torch.equal(*deeply)
    names = ("name", "text_dim", "embed_dim", "vision_dim", "text_layers", "vision_layers", "logit_scale", "abilities")
    assert all(getattr(whole, name) == getattr(text, name) for name in names)


def test_an_image_brings_in_the_whole_model():
    text, whole = load_text_tower("tiny"), load_backbone("tiny")
    pixels = text.preprocess(Image.new("RGB", (40, 40), (200, 10, 10)))[None]
    assert torch.equal(text.encode_images(pixels), whole.encode_images(pixels))
    assert text.calls.images == 1
    assert text._full is not None
    text.verify_frozen()


def test_a_changed_weight_is_noticed():
    text = load_text_tower("tiny")
    text._tower.module.ln_final.weight.data[0] += 1
    with pytest.raises(BackboneError, match="changed during the run"):
        text.verify_frozen()


def test_a_damaged_tower_is_loaded_anew(pair):
    folder = pair[1]._folder
    (folder / TOWER).write_bytes((folder / TOWER).read_bytes()[:-1] + b"x")
    again = load_text_tower("tiny")
    assert not isinstance(again, RememberedBackbone)
    assert isinstance(load_text_tower("tiny"), RememberedBackbone), "and remembered again"
    (folder / ABOUT).write_text("{")
    assert load_text_tower("tiny").fingerprint == pair[0].fingerprint


@pytest.mark.parametrize(("file", "text"), [(ABOUT, "22.98"), (ABOUT, "49406"), (TOKENS, "1125")])
def test_a_changed_number_is_loaded_anew(pair, file, text):
    path = pair[1]._folder / file
    load_text_tower("tiny")
    whole = path.read_text()
    assert text in whole
    path.write_text(whole.replace(text, text[:-1] + "3", 1))
    again = load_text_tower("tiny")
    assert not isinstance(again, RememberedBackbone)
    assert path.read_text() == whole


def test_without_a_cache_it_loads_all_the_same(pair, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PROMPTFED_CACHE", str(tmp_path / "file"))
    backbone = load_text_tower("tiny")
    assert torch.equal(backbone.encode_text(["a cat"]), pair[0].encode_text(["a cat"]))


def test_token_ids_of_many_texts_are_written_at_once(pair, monkeypatch):
    text, names, paths = load_text_tower("tiny"), [f"thing {number}" for number in range(20)], []
    monkeypatch.setattr(
        text_tower_cache, "write_bytes", lambda path, data: paths.append(path) or path.write_bytes(data)
    )
    text.class_tokens(names, 2)
    assert paths == [text._folder / TOKENS]
    again = load_text_tower("tiny")
    again.class_tokens(names, 2)
    assert again._full is None
    assert len(paths) == 1


@pytest.mark.slow
def test_neither_the_library_nor_the_image_tower_is_imported():
    load_text_tower("tiny").class_tokens(["cat"], 2)
    code = (
        "import sys; from promptfed.backbones.text_tower_cache import load_text_tower; b = load_text_tower('tiny'); "
        "b.class_tokens(['cat'], 2); assert 'open_clip' not in sys.modules and 'torchvision' not in sys.modules"
    )
    subprocess.run([sys.executable, "-P", "-c", code], check=True)


@pytest.mark.slow
def test_lit_is_remembered_without_its_image_network():
    pytest.importorskip("timm")
    load_text_tower("lit")
    text, whole = load_text_tower("lit"), load_backbone("lit")
    assert type(text).__name__ == "RememberedLit"
    assert not hasattr(text, "_vision")
    assert text.fingerprint == whole.fingerprint
    ctx = torch.randn(3, whole.text_dim, generator=torch.Generator().manual_seed(1))
    found = [b.encode_prompted_text(ctx, b.class_tokens(["lawn mower", "cat"], 3)) for b in (whole, text)]
    assert torch.equal(*found)
    pixels = text.preprocess(Image.new("RGB", (40, 40), (200, 10, 10)))[None]
    assert torch.equal(text.encode_images(pixels), whole.encode_images(pixels))
    text.verify_frozen()
