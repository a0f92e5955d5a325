"""Names that the text tower cannot read are refused when the experiment is built, new classes' names too."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from promptfed.backbones.dual_encoder import DualEncoder
from promptfed.backbones.features import FeatureStore
from promptfed.config import build_config
from promptfed.errors import BackboneError
from promptfed.experiment import Experiment
from promptfed.resolve import resolve

LONG = {
    "diagnosis": "zz " + "moderately well differentiated adenocarcinoma of the sigmoid colon, " * 3,
    "japanese": "雪の中の青い小鳥" * 6,
    "code": "x1y2z3q4" * 12,
}


def folder(root: Path, name: str) -> Path:
    for k, label in enumerate(("cat", "dog", "elk", name.strip())):
        (root / label).mkdir(parents=True)
        for i in range(6):
            pixels = np.random.default_rng([k, i]).integers(0, 256, (5, 5, 3), np.uint8)
            Image.fromarray(pixels).save(root / label / f"{i}.png")
    return root


def build(data: Path, features: FeatureStore, **options: object) -> Experiment:
    given = {"data": f"folder:{data}", "clients": 2, "shots": 1, "task_options": {"base_fraction": 0.5, "val_shots": 1}}
    return Experiment.build(resolve(build_config({**given, **options})), model_for=lambda _: DualEncoder(features))


@pytest.fixture(scope="module")
def tiny() -> FeatureStore:
    from promptfed.backbones import load_backbone

    return FeatureStore(load_backbone("tiny"))


@pytest.mark.parametrize("kind", LONG)
@pytest.mark.parametrize("method", ["promptfl", "zero_shot", "maple"])
def test_a_new_class_with_a_long_name_is_refused_by_name(
    tmp_path: Path, tiny: FeatureStore, kind: str, method: str
) -> None:
    data = folder(tmp_path / "data", LONG[kind])
    with pytest.raises(BackboneError, match=f"{LONG[kind][:12]}.* tokens, but backbone 'tiny' reads at most"):
        build(data, tiny, method=method)


def test_a_name_that_fits_the_templates_but_not_the_context_is_refused(tmp_path: Path, tiny: FeatureStore) -> None:
    data = folder(tmp_path / "data", "yellow bellied sap sucker bird in the old tree")
    build(data, tiny, method="zero_shot")
    build(data, tiny, method="promptfl", method_options={"n_ctx": 4})
    with pytest.raises(BackboneError, match=r"'yellow .* with 24 context tokens takes .*learn fewer context tokens"):
        build(data, tiny, method="promptfl", method_options={"n_ctx": 24})


def test_short_names_cost_nothing(tmp_path: Path, tiny: FeatureStore) -> None:
    before = tiny.backbone.calls.texts
    build(folder(tmp_path / "data", "fox"), tiny, method="zero_shot")
    assert tiny.backbone.calls.texts == before
