from __future__ import annotations

import json
import shutil
from importlib.resources import as_file, files
from pathlib import Path

import pytest
import torch
from PIL import Image

from promptfed.backbones import load_backbone
from promptfed.backbones.tiny import SIZE, load_tiny, look
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
    pixels = backbone.preprocess(Image.new("RGB", (300, 200), (255, 0, 127)))
    assert pixels.shape == (3, SIZE, SIZE)
    assert torch.equal(pixels, torch.full_like(pixels, -2.0)), "nothing stands out from a plain colour"
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
    pixels = torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
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


def sign(ink: tuple[int, int, int], paper: tuple[int, int, int], box: tuple[int, int, int, int]) -> torch.Tensor:
    """A rectangle with a hole, as `tiny` sees it."""
    image = Image.new("RGB", (64, 64), paper)
    left, top, right, bottom = box
    image.paste(ink, box)
    image.paste(paper, (left + 4, top + 4, right - 4, bottom - 4))
    return load_backbone("tiny").preprocess(image)


def test_what_is_seen_does_not_depend_on_colours_or_place() -> None:
    light = sign((255, 255, 255), (0, 0, 0), (10, 20, 34, 36))
    assert torch.equal(light, sign((0, 0, 0), (255, 255, 255), (10, 20, 34, 36)))
    assert torch.allclose(light, sign((30, 200, 90), (60, 10, 80), (30, 8, 54, 24)), atol=1e-5)
    bright = (light[0] > 0).nonzero()
    assert bright[:, 1].min() <= 3, "it fills the frame from left ..."
    assert bright[:, 1].max() >= SIZE - 4, "... to right, but for a thin margin"


def test_faint_noise_is_not_seen() -> None:
    noise = torch.randn(3, 64, 64, generator=torch.Generator().manual_seed(0)) * 0.04
    clean = torch.zeros(3, 64, 64)
    clean[:, 20:50, 10:60] = 1.0
    agree = (look(clean + noise) > 0) == (look(clean) > 0)
    assert agree.float().mean() > 0.95
