from __future__ import annotations

import json
import shutil
from importlib.resources import as_file, files
from pathlib import Path

import pytest
import torch
from PIL import Image

from promptfed.backbones import load_backbone
from promptfed.backbones.tiny import load_tiny
from promptfed.errors import BackboneError


@pytest.fixture(scope="module")
def bundled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the bundled weights that may be harmed."""
    folder = tmp_path_factory.mktemp("tiny")
    with as_file(files("promptfed.backbones.tiny_weights")) as source:
        for name in ("weights.safetensors", "config.json"):
            shutil.copy(source / name, folder / name)
    return folder


def test_bundled_weights_load_and_encode(bundled: Path) -> None:
    backbone, copy = load_backbone("tiny"), load_tiny(folder=bundled)
    config = json.loads((bundled / "config.json").read_text())
    size = config["preprocess"]["size"]
    pixels = backbone.preprocess(Image.new("RGB", (size, size), (255, 0, 127)))
    expected = [(level / 255 - 0.5) / 0.25 for level in (255, 0, 127)]
    torch.testing.assert_close(pixels.mean((1, 2)), torch.tensor(expected), atol=1e-5, rtol=0)
    assert backbone.encode_images(pixels[None]).shape == (1, backbone.embed_dim)
    assert backbone.context_length == 32
    assert backbone.logit_scale == pytest.approx(config["logit_scale"], rel=1e-3)
    assert copy.fingerprint == backbone.fingerprint
    backbone.verify_frozen()


def test_prompted_text_is_the_sentence() -> None:
    backbone = load_backbone("tiny")
    tokens = backbone.class_tokens(["bell", "paper_plane"], 4)
    found = backbone.encode_prompted_text(backbone.embed_words("an icon of a"), tokens)
    expected = backbone.encode_text(["an icon of a bell.", "an icon of a paper plane."])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    with pytest.raises(BackboneError, match="reads at most 32"):
        backbone.class_tokens(["bell"], 29)


def test_bfloat16_agrees_roughly_and_has_its_own_fingerprint() -> None:
    wide, narrow = load_backbone("tiny"), load_backbone("tiny", precision="bfloat16")
    pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert torch.cosine_similarity(wide.encode_images(pixels), narrow.encode_images(pixels)).min() > 0.98
    assert narrow.encode_text(["bell"]).dtype == torch.float32
    assert narrow.fingerprint != wide.fingerprint


def test_a_flipped_byte_is_noticed(bundled: Path, tmp_path: Path) -> None:
    shutil.copytree(bundled, tmp_path / "tiny")
    path = tmp_path / "tiny" / "weights.safetensors"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(BackboneError, match=r"'tiny' is damaged.*reinstall"):
        load_tiny(folder=tmp_path / "tiny")
    path.unlink()
    with pytest.raises(BackboneError, match=r"cannot be read.*reinstall"):
        load_tiny(folder=tmp_path / "tiny")
