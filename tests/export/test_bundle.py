"""A bundle comes back as it went out, is written whole or not at all, and says what is wrong with a damaged one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from promptfed.errors import BundleError
from promptfed.export.bundle import Bundle, check_model, read_bundle, write_bundle
from promptfed.prompt_state import PromptState

NAMES = {"prompt.safetensors", "class_text_features.safetensors", "promptfed_config.json", "README.md"}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def change_config(folder: Path, **values: Any) -> None:
    path = folder / "promptfed_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_the_class_features_are_those_of_the_methods_formula(bundle: Bundle) -> None:
    raw = np.eye(3) + 0.5 * np.array([0.1, 0.2, 0.0])
    expected = raw / np.linalg.norm(raw, axis=1, keepdims=True)
    np.testing.assert_allclose(bundle.class_features.numpy(), expected, atol=1e-6)


def test_a_bundle_comes_back_as_it_went_out(bundle: Bundle, tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "deep" / "client-2", bundle)
    assert folder == tmp_path / "deep" / "client-2"
    assert set(contents(folder)) == NAMES
    back = read_bundle(folder)
    assert back.shared == bundle.shared
    assert back.personal == bundle.personal
    assert torch.equal(back.class_features, bundle.class_features)
    assert back.meta.model_copy(update={"sha256": {}}) == bundle.meta
    assert (back.meta.client, back.meta.client_name, back.meta.method_options) == (2, "house 2", {"strength": 0.5})


def test_names_and_shapes_on_disk_are_the_documented_ones(bundle: Bundle, tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "b", bundle)
    prompt = load_file(folder / "prompt.safetensors")
    assert {name: t.shape for name, t in prompt.items()} == {"shared/tint": (3,), "personal/tint": (3,)}
    text = load_file(folder / "class_text_features.safetensors")
    assert text["features"].shape == (3, 3)
    assert text["features"].dtype == np.float32
    assert float(text["logit_scale"]) == 10.0


def test_the_same_bundle_gives_the_same_bytes(bundle: Bundle, tmp_path: Path) -> None:
    first, second = write_bundle(tmp_path / "1", bundle), write_bundle(tmp_path / "2", bundle)
    assert contents(first) == contents(second)
    again = write_bundle(tmp_path / "3", read_bundle(first))
    assert contents(again) == contents(first)


def test_a_prompt_without_parts_is_a_bundle_too(bundle: Bundle, tmp_path: Path) -> None:
    bare = replace(bundle, shared=PromptState(), personal=PromptState())
    back = read_bundle(write_bundle(tmp_path / "bare", bare))
    assert (len(back.shared), len(back.personal)) == (0, 0)


def test_equal_names_in_both_parts_and_slashes_stay_apart(bundle: Bundle, tmp_path: Path) -> None:
    shared = PromptState({"ctx": torch.ones(2), "personal/x": torch.zeros(1)})
    personal = PromptState({"ctx": torch.zeros(3)})
    back = read_bundle(write_bundle(tmp_path / "b", replace(bundle, shared=shared, personal=personal)))
    assert back.shared == shared
    assert back.personal == personal


# --------------------------------------------------------------------------------------------------- writing


def test_a_bundle_is_replaced_only_when_asked(bundle: Bundle, tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "b", bundle)
    other = replace(bundle, personal=PromptState({"tint": torch.full((3,), 7.0)}))
    with pytest.raises(BundleError, match="already holds a bundle"):
        write_bundle(folder, other)
    assert read_bundle(folder).personal == bundle.personal
    write_bundle(folder, other, overwrite=True)
    assert read_bundle(folder).personal == other.personal
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_with_other_files_is_never_touched(bundle: Bundle, tmp_path: Path, overwrite: bool) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "cat.jpg").write_bytes(b"dear")
    with pytest.raises(BundleError, match=r"no bundle \(it holds cat\.jpg\)"):
        write_bundle(photos, bundle, overwrite=overwrite)
    folder = write_bundle(tmp_path / "b", bundle)
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(BundleError, match=r"notes\.txt"):
        write_bundle(folder, bundle, overwrite=overwrite)
    assert (photos / "cat.jpg").read_bytes() == b"dear"
    assert (folder / "notes.txt").read_text() == "mine"


def test_an_empty_folder_is_taken_and_a_file_is_not(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert read_bundle(write_bundle(tmp_path / "empty", bundle)).meta.client == 2
    (tmp_path / "file").write_text("x")
    with pytest.raises(BundleError, match="there is a file of that name"):
        write_bundle(tmp_path / "file", bundle)


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_failed_write_leaves_everything_as_it_was(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overwrite: bool
) -> None:
    folder = tmp_path / "b"
    before = {}
    if overwrite:
        write_bundle(folder, bundle)
        before = contents(folder)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(BundleError, match="No space left"):
        write_bundle(folder, bundle, overwrite=overwrite)
    assert (contents(folder) if folder.exists() else {}) == before
    assert [path.name for path in tmp_path.iterdir()] == (["b"] if overwrite else [])


def test_features_and_prompts_must_make_sense(bundle: Bundle) -> None:
    with pytest.raises(BundleError, match=r"\(2, 3\), not \(3, 3\)"):
        replace(bundle, class_features=bundle.class_features[:2])
    with pytest.raises(BundleError, match="unit length"):
        replace(bundle, class_features=2 * bundle.class_features)
    with pytest.raises(BundleError, match="client 2 holds numbers that are not finite"):
        replace(bundle, personal=PromptState({"tint": torch.tensor([0.0, float("nan"), 0.0])}))


# --------------------------------------------------------------------------------------------------- reading


def test_what_is_not_a_bundle_folder_is_named(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="nowhere' does not exist"):
        read_bundle(tmp_path / "nowhere")
    (tmp_path / "file").write_text("x")
    with pytest.raises(BundleError, match="is a file, not a bundle folder"):
        read_bundle(tmp_path / "file")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BundleError, match=r"promptfed_config\.json is missing"):
        read_bundle(tmp_path / "empty")


@pytest.mark.parametrize("name", ["prompt.safetensors", "class_text_features.safetensors"])
def test_a_missing_and_a_changed_file_are_named(bundle: Bundle, tmp_path: Path, name: str) -> None:
    path = write_bundle(tmp_path / "b", bundle) / name
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(BundleError, match=f"SHA-256 of {name}"):
        read_bundle(tmp_path / "b")
    path.unlink()
    with pytest.raises(BundleError, match=f"{name} is missing"):
        read_bundle(tmp_path / "b")


def test_a_damaged_config_is_named(bundle: Bundle, tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "b", bundle)
    change_config(folder, classes=["red", "green"])
    with pytest.raises(BundleError, match=r"\(3, 3\), not \(2, 3\)"):
        read_bundle(folder)
    change_config(folder, rounds="many", surprise=1)
    with pytest.raises(BundleError, match=r"wrong in rounds, surprise"):
        read_bundle(folder)
    change_config(folder, format_version=9)
    with pytest.raises(BundleError, match="format version 9, this promptfed reads 1"):
        read_bundle(folder)
    for text in ("{", "[1]", "null", "\xff"):
        (folder / "promptfed_config.json").write_text(text, encoding="latin-1")
        with pytest.raises(BundleError, match=r"promptfed_config\.json is"):
            read_bundle(folder)


ORACLE = {"name": "minilm", "fingerprint": "f" * 64, "precision": "float32", "options": {}}


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        ({"backbone": None}, "backbone, oracle and language_model, of which exactly one must be given"),
        ({"oracle": ORACLE}, "backbone, oracle and language_model, of which exactly one must be given"),
        ({"logit_scale": None}, "logit_scale"),
        ({"form": {}, "examples": "texts"}, "form, examples"),
        ({"backbone": None, "oracle": ORACLE}, "form, examples, complete, backbone, logit_scale"),
    ],
)
def test_a_bundle_is_for_one_model_and_has_its_fields_alone(
    bundle: Bundle, tmp_path: Path, change: dict[str, Any], wrong: str
) -> None:
    folder = write_bundle(tmp_path / "b", bundle)
    fields = json.loads((folder / "promptfed_config.json").read_text()).keys()
    assert not fields & {"oracle", "form", "examples", "complete"}
    change_config(folder, **change)
    with pytest.raises(BundleError, match=f"is wrong in {wrong}; export it again"):
        read_bundle(folder)


def test_a_bundle_whose_checksums_fit_but_whose_tensors_do_not_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    stranger = replace(bundle, shared=PromptState({"tint": torch.ones(3)}))
    folder = write_bundle(tmp_path / "b", stranger)
    # A prompt that is a valid safetensors file, with the right checksum, but a tensor that belongs to neither part.
    odd = PromptState({"loose": torch.ones(1)})
    (folder / "prompt.safetensors").write_bytes(odd.to_bytes())
    sums = json.loads((folder / "promptfed_config.json").read_text())["sha256"]
    change_config(folder, sha256={**sums, "prompt.safetensors": odd.sha256()})
    with pytest.raises(BundleError, match="does not belong"):
        read_bundle(folder)


def test_another_backbone_is_refused_by_name(bundle: Bundle, model: Any, make_model: Any) -> None:
    check_model(bundle, model)
    with pytest.raises(BundleError, match=r"backbone 'colours' \(float32.*does not fit backbone 'greys'") as error:
        check_model(bundle, make_model("b" * 64, "greys"))
    assert "load backbone 'colours' in float32" in str(error.value)
    assert "\n" not in str(error.value)
    with pytest.raises(BundleError, match="with the weights and the promptfed version"):
        check_model(bundle, make_model("b" * 64))


@pytest.mark.parametrize("name", ["n" * 300, "x" * 4_000, "file/below", "loop/below"])
def test_a_folder_that_cannot_be_made_costs_one_line(bundle: Bundle, tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(BundleError, match="cannot write bundle") as caught:
        write_bundle(tmp_path / name, bundle)
    assert len(str(caught.value)) < 400
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "loop"]


@pytest.mark.parametrize(
    "classes", [["a name"] * 60_000, ["x" * 20_000, "y"], []], ids=["too many", "too long", "none"]
)
def test_a_bundle_that_asks_for_a_days_work_is_refused(bundle: Bundle, tmp_path: Path, classes: list[str]) -> None:
    folder = write_bundle(tmp_path / "b", bundle)
    change_config(folder, classes=classes)
    with pytest.raises(BundleError, match="wrong in classes"):
        read_bundle(folder)
