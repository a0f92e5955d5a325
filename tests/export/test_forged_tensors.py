"""Bundles whose checksums are right and whose tensors are not what their method uses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from promptfed.agreement import Agreement
from promptfed.blackbox.oracle_factory import load_oracle
from promptfed.build_method import build_method
from promptfed.config import RunConfig
from promptfed.errors import BundleError
from promptfed.export.bundle import Bundle, make_bundle, read_bundle, write_bundle
from promptfed.export.predict import Predictor
from promptfed.oracle_options import OracleOptions
from promptfed.prompt_state import PromptState
from promptfed.prompt_template import PromptTemplate
from promptfed.setup import Setup
from promptfed.types import ClientPrompt

CLASSES = ("cat", "dog", "bird")


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    """ZOOPFL as it starts: an encoder, a generator of pixels, and a map of scores that is the client's own."""
    oracle = load_oracle(
        "clip:tiny",
        PromptTemplate(template="{{ prompt }} {{ text }}", prompts=("an icon of a",)),
        OracleOptions(),
    )
    setup = Setup(oracle, Agreement(classes=CLASSES, templates=("an icon of a",), rounds=1, seed=0))
    method = build_method("zoopfl", {}, setup)
    prompt = ClientPrompt(method.init_shared(), method.init_personal(0))
    config = RunConfig(task="blackbox-vision", method="zoopfl", oracle="clip:tiny")
    made = make_bundle(config, method, prompt, 0, "one", "images")
    object.__setattr__(made, "oracle_of_tests", oracle)
    return made


def predict(bundle: Bundle, folder: Path) -> int:
    """Write the bundle with checksums that are right, read it, and return how many classes it ranks for an image."""
    read = read_bundle(write_bundle(folder / "b", bundle))
    Image.new("RGB", (8, 8), "red").save(folder / "image.png")
    oracle = bundle.oracle_of_tests  # type: ignore[attr-defined]
    [found] = Predictor(read, oracle).predict([str(folder / "image.png")])
    return len(found.ranked)


def remade(bundle: Bundle, shared: dict[str, torch.Tensor]) -> Bundle:
    changed = replace(bundle, shared=PromptState(shared))
    object.__setattr__(changed, "oracle_of_tests", bundle.oracle_of_tests)  # type: ignore[attr-defined]
    return changed


def test_the_bundle_as_it_is_predicts(bundle: Bundle, tmp_path: Path) -> None:
    assert predict(bundle, tmp_path) == len(CLASSES)


@pytest.mark.parametrize(
    "change",
    [
        lambda state: {},
        lambda state: {"strange": torch.ones(2)},
        lambda state: {name: tensor for name, tensor in state.items() if name != "W1"},
        lambda state: state | {"W1": torch.zeros(0)},
        lambda state: state | {"W1": torch.tensor(1.0)},
        lambda state: state | {"W1": state["W1"][:-1].clone()},
        lambda state: state | {"W2": state["W2"][None].clone()},
        lambda state: state | {"b2": state["b2"].repeat(200)},
        lambda state: state | {"kept_zero_shot": torch.ones(2)},
        lambda state: state | {"kept_zero_shot": torch.tensor([1.5, -2.0, 1e38])},
    ],
)
def test_tensors_of_other_names_shapes_and_types_cost_one_line(bundle: Bundle, tmp_path: Path, change: object) -> None:
    forged = remade(bundle, change(dict(bundle.shared)))  # type: ignore[operator]
    with pytest.raises(BundleError) as caught:
        predict(forged, tmp_path)
    assert "\n" not in str(caught.value)
