"""A bundle classifies image files among its own classes and among others, and names what it cannot read."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from promptfed.backbones.dual_encoder import DualEncoder
from promptfed.backbones.features import FeatureStore, default_cache
from promptfed.errors import BudgetExhausted, BundleError, ConfigError, DataError, PromptFedError
from promptfed.export.bundle import Bundle, read_bundle, write_bundle
from promptfed.export.loaded import LoadedBundle
from promptfed.export.predict import Predictor
from promptfed.python_words import in_python


@pytest.fixture
def predictor(bundle: Bundle, model: DualEncoder) -> Predictor:
    return Predictor(bundle, model)


def test_own_classes_use_the_stored_features_and_no_text_tower(
    predictor: Predictor, backbone: Any, photos: dict[str, Path]
) -> None:
    texts = backbone.calls.texts
    [found] = predictor.predict([photos["green"]])
    assert backbone.calls.texts == texts
    # Red, green and blue walls as seen by the prompt; a green picture is the second axis.
    raw = [(1.05, 0.1, 0.0), (0.05, 1.1, 0.0), (0.05, 0.1, 1.0)]
    weights = [math.exp(10.0 * row[1] / math.sqrt(sum(v * v for v in row))) for row in raw]
    expected = dict(zip(("red", "green", "blue"), (w / sum(weights) for w in weights), strict=True))
    assert found.example == photos["green"]
    assert [name for name, _ in found.ranked] == sorted(expected, key=expected.__getitem__, reverse=True)
    assert dict(found.ranked) == pytest.approx(expected, abs=1e-5)


def test_images_in_memory_are_scored_as_their_files_are(predictor: Predictor, photos: dict[str, Path]) -> None:
    image = Image.open(photos["green"]).convert("RGB")
    pixels = np.asarray(image)
    in_memory = [image, pixels, torch.from_numpy(pixels.copy()).permute(2, 0, 1), pixels / 255]
    found = LoadedBundle(Path("b"), predictor).predict(iter([str(photos["green"]), *in_memory]))
    assert [p.example for p in found] == [photos["green"], *(f"examples[{i}]" for i in range(1, 5))]
    assert all(p.ranked == found[0].ranked for p in found)


@pytest.mark.parametrize(
    ("examples", "said"),
    [
        ([3], r"examples\[0\] is an int: give a PIL image, an array, or the path"),
        ([b"a.png"], r"examples\[0\] is a bytes: give a PIL image"),
        ([(np.zeros((2, 2)), 1)], r"examples\[0\] is a tuple of 2: give a PIL image"),
        ([np.full((2, 2), 7.0)], r"examples\[0\] is an array \(2, 2\) of float64 with values outside 0..1"),
        (np.zeros((2, 4, 6, 3), np.uint8), "examples must be a list, and this is a ndarray"),
        (Image.new("RGB", (2, 2)), "examples must be a list, and this is an Image"),
        (None, "examples must be a list, and this is a NoneType"),
        (Path("a.png"), "examples must be a list, not PosixPath"),
    ],
)
def test_what_is_no_image_is_one_line(predictor: Predictor, examples: Any, said: str) -> None:
    with pytest.raises(PromptFedError, match=f"^{said}[^\n]*$"):
        LoadedBundle(Path("b"), predictor).predict(examples)


def test_errors_are_in_the_words_of_the_caller(
    predictor: Predictor, photos: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise BudgetExhausted("raise it with --max-calls")

    monkeypatch.setattr(predictor.method, "client_logits", fail)
    bundle = LoadedBundle(Path("b"), predictor)
    for words, said in ((str, "with --max-calls$"), (in_python, "with max_calls$")):
        bundle.words = words
        with pytest.raises(BudgetExhausted, match=said):
            bundle.predict([photos["red"]], ["red", "blue"])


def test_other_classes_go_through_the_method(predictor: Predictor, photos: dict[str, Path]) -> None:
    found = predictor.predict([photos["yellow"], photos["blue"]], ["yellow", " blue "])
    assert [p.ranked[0][0] for p in found] == ["yellow", "blue"]
    assert sum(p for _, p in found[0].ranked) == pytest.approx(1)


def test_stored_and_recomputed_features_agree(predictor: Predictor, photos: dict[str, Path]) -> None:
    paths = list(photos.values())
    stored = predictor.predict(paths)
    fresh = predictor.predict(paths, ["blue", "green", "red"])
    for one, other in zip(stored, fresh, strict=True):
        assert dict(one.ranked) == pytest.approx(dict(other.ranked), abs=1e-6)


def test_a_bundle_from_disk_predicts_the_same(
    bundle: Bundle, predictor: Predictor, model: DualEncoder, photos: dict[str, Path], tmp_path: Path
) -> None:
    again = Predictor(read_bundle(write_bundle(tmp_path / "b", bundle)), model)
    assert again.predict(list(photos.values())) == predictor.predict(list(photos.values()))


def test_top_limits_the_list_but_not_the_softmax(predictor: Predictor, photos: dict[str, Path]) -> None:
    [whole], [first] = predictor.predict([photos["red"]]), predictor.predict([photos["red"]], top=1)
    assert first.ranked == whole.ranked[:1]
    assert predictor.predict([]) == []


def test_below_the_threshold_an_image_is_none_of_these(predictor: Predictor, photos: dict[str, Path]) -> None:
    [plain] = predictor.predict([photos["yellow"]])
    assert (plain.is_none, plain.best) == (False, plain.ranked[0][0])
    share = plain.ranked[0][1]
    [above] = predictor.predict([photos["yellow"]], threshold=share)
    assert above == plain
    [below] = LoadedBundle(Path("b"), predictor).predict([photos["yellow"]], threshold=share + 1e-6)
    assert (below.is_none, below.best, below.ranked) == (True, None, plain.ranked)


@pytest.mark.parametrize("threshold", [-0.1, 1.1, "0.5", True, float("nan")])
def test_a_threshold_is_a_probability(predictor: Predictor, photos: dict[str, Path], threshold: Any) -> None:
    with pytest.raises(ConfigError, match=r"threshold is .*: give a probability from 0 to 1"):
        predictor.predict([photos["red"]], threshold=threshold)


def test_a_method_with_scores_of_its_own_is_asked(
    backwards: Bundle, predictor: Predictor, model: DualEncoder, photos: dict[str, Path]
) -> None:
    [forwards] = predictor.predict([photos["yellow"]])
    [turned] = Predictor(backwards, model).predict([photos["yellow"]])
    assert [name for name, _ in turned.ranked] == [name for name, _ in reversed(forwards.ranked)]


def test_the_default_store_reads_files(
    bundle: Bundle, backbone: Any, photos: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROMPTFED_CACHE", str(tmp_path / "cache"))
    features = FeatureStore(backbone, default_cache(read_only=True))
    found = Predictor(bundle, DualEncoder(features)).predict([photos["red"], photos["blue"]])
    assert [p.ranked[0][0] for p in found] == ["red", "blue"]


def test_unreadable_images_are_named(predictor: Predictor, photos: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.png"):
        predictor.predict([photos["red"], tmp_path / "none.png"])
    torn = tmp_path / "torn.png"
    torn.write_bytes(photos["red"].read_bytes()[:40])
    with pytest.raises(DataError, match=r"torn\.png"):
        predictor.predict([torn])
    with pytest.raises(DataError, match=str(tmp_path)):
        predictor.predict([tmp_path])


@pytest.mark.parametrize(
    ("classes", "top", "said"),
    [
        (["red"], 5, "at least two"),
        ([], 5, "at least two"),
        (["red", "blue", "red "], 5, "class 'red' is given 2 times"),
        (["red", " "], 5, "one of them is empty"),
        (["red", "blue"], 0, "top is 0"),
        (["red", "blue"], "3", "top is '3'"),
        ("red,blue", 5, "give a list of names"),
        (["red", 3], 5, "give a list of names"),
    ],
)
def test_class_lists_that_make_no_sense(predictor: Predictor, classes: Any, top: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        predictor.predict([Path("any.png")], classes, top)


def test_another_backbone_and_an_unknown_method_are_refused(
    bundle: Bundle, model: DualEncoder, make_model: Any
) -> None:
    with pytest.raises(BundleError, match="made for backbone 'colours'"):
        Predictor(bundle, make_model("d" * 64, "greys"))
    meta = bundle.meta.model_copy(update={"method": "no-such-method"})
    with pytest.raises(ConfigError, match="unknown method 'no-such-method'"):
        Predictor(Bundle(bundle.shared, bundle.personal, meta, bundle.class_features), model)


def test_predictions_leave_the_bundle_alone(bundle: Bundle, predictor: Predictor, photos: dict[str, Path]) -> None:
    before = bundle.class_features.clone()
    predictor.predict(list(photos.values()))
    assert torch.equal(bundle.class_features, before)


@pytest.mark.parametrize(
    "error",
    [KeyError("ctx"), RuntimeError("mat1 and mat2 shapes cannot be multiplied"), IndexError("dim"), TypeError("float")],
)
def test_a_prompt_that_the_method_cannot_use_costs_one_line(
    predictor: Predictor, photos: dict[str, Path], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(predictor.method, "client_logits", fail)
    with pytest.raises(BundleError, match=f"^the bundle's prompt cannot be used: .*{type(error).__name__}"):
        predictor.predict([photos["red"]], ["red", "blue"])


def test_want_of_memory_is_no_fault_of_the_bundle(
    predictor: Predictor, photos: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setattr(predictor.method, "client_logits", fail)
    with pytest.raises(torch.OutOfMemoryError):
        predictor.predict([photos["red"]], ["red", "blue"])
