"""Weights of open_clip models from files: usual wrappings, and the preprocessing and activation that go with them."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from open_clip import pretrained
from safetensors.torch import save_file

from promptfed.backbones import load_backbone
from promptfed.backbones.openclip_weights import split_options, unwrapped, weights_path
from promptfed.errors import BackboneError

HALF = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5), "interpolation": "bilinear", "resize_mode": "squash"}
CLIPS = {"mean": (0.48145466, 0.4578275, 0.40821073), "std": (0.26862954, 0.26130258, 0.27577711)}


@pytest.fixture
def weights(checkpoint: Any) -> Path:
    path: Path = checkpoint("small-clip", ".pt")
    return path


@pytest.fixture
def tags(monkeypatch: pytest.MonkeyPatch) -> Any:
    def give(**tags: dict[str, Any]) -> None:
        monkeypatch.setitem(pretrained._PRETRAINED, "small-clip", tags)

    return give


def loaded(path: object) -> Any:
    return load_backbone(f"open_clip:small-clip/{path}")


def preprocess(backbone: Any) -> dict[str, Any]:
    found: dict[str, Any] = backbone._model.visual.preprocess_cfg
    return found


def state(path: Path) -> dict[str, torch.Tensor]:
    found = torch.load(path, weights_only=True)
    return dict(found.get("state_dict", found))


@pytest.mark.parametrize("prefix", ["", "module.", "model.", "module.model.", "_orig_mod.module."])
@pytest.mark.parametrize("key", [None, "state_dict", "model", "module"])
def test_the_usual_wrappings(weights: Path, tmp_path: Path, prefix: str, key: str | None) -> None:
    tensors = {prefix + name: tensor for name, tensor in state(weights).items()}
    torch.save(tensors if key is None else {key: tensors, "epoch": 3, "optimizer": {"state": {}}}, tmp_path / "x.pt")
    assert loaded(tmp_path / "x.pt").fingerprint == loaded(weights).fingerprint


def test_a_torchscript_archive_is_read_without_running_it(weights: Path, tmp_path: Path, tags: Any) -> None:
    model = open_clip.create_model("small-clip", pretrained=str(weights)).eval()
    example = (torch.zeros(1, 3, 32, 32), open_clip.get_tokenizer("small-clip")(["a"]))
    with warnings.catch_warnings(action="ignore"):
        torch.jit.trace(model, example, check_trace=False, strict=False).save(str(tmp_path / "ViT.pt"))
    assert loaded(tmp_path / "ViT.pt").fingerprint == loaded(weights).fingerprint
    tags(openai={"quick_gelu": True}, other={"quick_gelu": False})
    quick = loaded(f"{weights}?activation=quick_gelu").fingerprint
    assert loaded(tmp_path / "ViT.pt").fingerprint == quick  # such archives are OpenAI's
    assert loaded(weights).fingerprint != quick


def test_a_folder_and_the_home_folder(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    save_file(state(weights), folder / "open_clip_model.safetensors")
    plain = loaded(weights).fingerprint
    assert loaded(folder).fingerprint == plain
    monkeypatch.setenv("HOME", str(tmp_path))
    assert loaded("~/mine").fingerprint == plain
    assert loaded("~/mine/open_clip_model.safetensors").fingerprint == plain
    config = {"model_cfg": {"quick_gelu": True}, "preprocess_cfg": {**HALF, "size": 224}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    own = loaded(folder)
    assert {name: preprocess(own)[name] for name in HALF} == HALF
    assert (
        own.fingerprint
        == loaded(f"{weights}?mean=0.5&std=0.5&resize=squash&interpolation=bilinear&activation=quick_gelu").fingerprint
    )
    for name in ("a.pt", "b.pt"):
        shutil.copy(weights, tmp_path / name)
    with pytest.raises(BackboneError, match=r"holds a\.pt, b.pt: name the file of weights itself"):
        loaded(tmp_path)


def test_what_all_tags_agree_on_goes_with_a_file(weights: Path, tags: Any, caplog: pytest.LogCaptureFixture) -> None:
    tags(one={**HALF, "quick_gelu": True}, two={**HALF, "quick_gelu": True})
    backbone = loaded(weights)
    assert {name: preprocess(backbone)[name] for name in HALF} == HALF
    assert not caplog.records
    tags(one={**HALF, "quick_gelu": True}, two={**HALF, **CLIPS})
    backbone = loaded(weights)
    assert "mean and std and activation" in caplog.text
    assert {name: tuple(preprocess(backbone)[name]) for name in CLIPS} == CLIPS
    assert preprocess(backbone)["resize_mode"] == "squash"
    caplog.clear()
    backbone = loaded(f"{weights}?mean=0.5&std=0.1,0.2,0.3&activation=gelu")
    assert not caplog.records
    assert preprocess(backbone)["mean"] == (0.5, 0.5, 0.5)
    assert preprocess(backbone)["std"] == (0.1, 0.2, 0.3)


def test_the_real_tags_of_pe_core_agree() -> None:
    from promptfed.backbones.openclip_weights import find_settings

    found = find_settings("PE-Core-B-16", Path("x.pt"), {}, is_openai=False)
    assert dict(found.preprocess) == HALF
    assert find_settings("ViT-B-16-quickgelu", Path("x.pt"), {}, is_openai=False).quick_gelu is True
    assert find_settings("ViT-B-16", Path("x.pt"), {}, is_openai=True).quick_gelu is True
    assert find_settings("ViT-B-16", Path("x.pt"), {}, is_openai=False).quick_gelu is None


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ("mean=a", "'mean' of the weights is 'a'"),
        ("mean=1,2", "one number, or three"),
        ("std=0", "'std' of the weights is '0'"),
        ("std=nan", "'std'"),
        ("resize=crop", "one of shortest, longest, squash"),
        ("activation=relu", "one of gelu, quick_gelu"),
        ("interpolation=magic", "one of bicubic"),
        ("size=3", "unknown option 'size'"),
        ("mean", "unknown option 'mean'"),
    ],
)
def test_options_that_cannot_be(weights: Path, options: str, reason: str) -> None:
    with pytest.raises(BackboneError, match=reason):
        loaded(f"{weights}?{options}")


def test_what_does_not_fit_is_said_whole(weights: Path, tmp_path: Path) -> None:
    tensors = state(weights)
    names = sorted(tensors)
    cases = {
        f"it lacks '{names[0]}' \\(1 such\\)": {name: tensors[name] for name in names[1:]},
        "it has an unknown 'more' \\(1 such\\)": {**tensors, "more": torch.ones(1)},
        "'ln_final.weight' is \\(3,\\), not \\(": {**tensors, "ln_final.weight": torch.ones(3)},
        "more values than the 1 that": {**tensors, "ln_final.weight": torch.ones(1).expand(10**9)},
        "holds no tensors by name": {"epoch": 3},
        "Linear, which is no plain tensor and is never opened": torch.nn.Linear(2, 2),
    }
    for reason, content in cases.items():
        torch.save(content, tmp_path / "x.pt")
        with pytest.raises(BackboneError, match=reason) as caught:
            loaded(tmp_path / "x.pt")
        assert "\n" not in str(caught.value)


def test_names_of_files(tmp_path: Path) -> None:
    (tmp_path / "a?b.pt").touch()
    assert split_options(f"{tmp_path}/a?b.pt") == (f"{tmp_path}/a?b.pt", {})
    assert split_options("x.pt?mean=1&std=2") == ("x.pt", {"mean": "1", "std": "2"})
    assert weights_path("openai") is None
    assert weights_path("laion2b_s34b_b79k") is None
    assert weights_path("~/x") == Path("~/x").expanduser()
    assert weights_path("none.bin") == Path("none.bin")
    assert unwrapped({}) == {}
