"""The code in a bundle's README runs as it stands, without promptfed, and agrees with promptfed."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from promptfed.export.bundle import Bundle, write_bundle
from promptfed.export.predict import Predictor


def python_block(folder: Path) -> str:
    blocks = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    assert len(blocks) == 1
    return blocks[0]


def run(code: str, folder: Path) -> str:
    """The printed output of ``code`` in ``folder``, in an interpreter that cannot import promptfed."""
    barred = "import sys\nsys.modules['promptfed'] = None\n"
    done = subprocess.run([sys.executable, "-P", "-c", barred + code], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_numpy_lines_agree_with_promptfed(
    bundle: Bundle, backbone: Any, model: Any, photos: dict[str, Path], tmp_path: Path
) -> None:
    folder = write_bundle(tmp_path / "b", bundle)
    page = (folder / "README.md").read_text()
    assert "client 2 (house 2)" in page
    assert "`shared/tint` (3,), `personal/tint` (3,)" in page
    assert "$" not in page
    paths = [photos[name] for name in ("blue", "green", "red")]
    pixels = torch.stack([backbone.preprocess(Image.open(path)) for path in paths])
    np.save(folder / "image_features.npy", backbone.encode_images(pixels).numpy())
    said = run(python_block(folder), folder)
    assert said == str([p.ranked[0][0] for p in Predictor(bundle, model).predict(paths)])
    assert said == "['blue', 'green', 'red']"


def test_names_with_a_dollar_do_not_break_the_page(bundle: Bundle, tmp_path: Path) -> None:
    odd = replace(bundle, meta=bundle.meta.model_copy(update={"client_name": "$$ ${x} {y} %s"}))
    assert "client 2 ($$ ${x} {y} %s)" in (write_bundle(tmp_path / "b", odd) / "README.md").read_text()


@pytest.mark.slow
def test_the_open_clip_lines_run(bundle: Bundle, photos: dict[str, Path], tmp_path: Path) -> None:
    open_clip = pytest.importorskip("open_clip")
    model, _, preprocess = open_clip.create_model_and_transforms("ViT-S-32-alt", pretrained=None)
    weights = tmp_path / "weights.pt"
    torch.save(model.state_dict(), weights)
    with torch.inference_mode():
        image = model.eval().encode_image(preprocess(Image.open(photos["red"]).convert("RGB"))[None])
    # Three classes of which the second is the picture's own direction.
    features = torch.nn.functional.normalize(torch.cat([-image, image, image.roll(1, -1)]), dim=-1)
    made_on = bundle.meta.backbone.model_copy(
        update={"name": f"open_clip:ViT-S-32-alt/{weights}", "embed_dim": image.shape[1]}
    )
    meta = bundle.meta.model_copy(update={"backbone": made_on})
    folder = write_bundle(tmp_path / "b", replace(bundle, meta=meta, class_features=features))
    (folder / "photo.jpg").write_bytes(photos["red"].read_bytes())
    assert run(python_block(folder), folder).splitlines()[-1] == "['green']"
