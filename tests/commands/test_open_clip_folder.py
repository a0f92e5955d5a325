"""Runs on open_clip models with text towers that are never cut, from training to a prediction without promptfed."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.nn import functional as F

from promptfed.api import load, train
from promptfed.backbones import load_backbone

sys.path.append(str(Path(__file__).parents[1] / "backbones"))  # for shrunk_models.py, which is no test
from shrunk_models import VISION, write_folder, write_tokenizers

LAST = {"no_causal_mask": True, "pool_type": "last", "hf_tokenizer_name": "siglip"}
WHOLE = {"no_causal_mask": True, "vocab_size": 49408}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["last", "whole"])
@pytest.mark.parametrize("way", ["folder", "file"])
def test_train_export_and_predict(promptfed, tmp_path: Path, kind: str, way: str) -> None:
    text = {"context_length": 40, "vocab_size": 400, "width": 64, "heads": 2, "layers": 2}
    text |= LAST if kind == "last" else WHOLE
    model, bundle = tmp_path / "model", tmp_path / "bundle"
    write_folder(model, {"embed_dim": 32, "custom_text": True, "vision_cfg": VISION, "text_cfg": text})
    if kind == "last":
        shutil.copytree(write_tokenizers(tmp_path / "words")["siglip"], model, dirs_exist_ok=True)
    name = f"open_clip:local-dir:{model}"
    if way == "file":
        architecture = f"mine-{kind}"
        (tmp_path / f"{architecture}.json").write_text(
            re.sub(r'"siglip"', f'"{model}"', architecture_of(model))  # its tokenizer lies in the folder
        )
        open_clip.add_model_config(tmp_path / f"{architecture}.json")
        name = f"open_clip:{architecture}/{model}/open_clip_model.safetensors"
    run = train(
        method="promptfl", method_options={"n_ctx": 2}, backbone=name, folder=tmp_path / "run", rounds=1, shots=1,
        clients=2, threads=1,
    )  # fmt: skip
    run.export(client=0, path=bundle)
    photo = bundle / "photo.jpg"
    Image.radial_gradient("L").convert("RGB").resize((32, 32)).save(photo)
    refusal = promptfed("predict", str(bundle), str(photo))
    assert refusal.code == 2
    assert "open_clip:local-dir:FOLDER" in refusal.err
    with load(bundle, model=name) as predictor:
        ((winner, _), *_) = predictor.predict([photo])[0].ranked
    backbone = load_backbone(name)
    tokens = backbone.class_tokens(predictor.classes, 2)
    expected = F.normalize(backbone.encode_prompted_text(predictor.shared["ctx"], tokens), dim=-1)
    stored = load_file(bundle / "class_text_features.safetensors")["features"]
    torch.testing.assert_close(stored, expected, atol=1e-6, rtol=0)
    code = re.findall(r"```python\n(.*?)```", (bundle / "README.md").read_text(), re.DOTALL)[0]
    added = f"open_clip.add_model_config({str(tmp_path / f'mine-{kind}.json')!r})\n" if way == "file" else ""
    barred = f"import sys\nsys.modules['promptfed'] = None\nimport open_clip\n{added}{code}"
    done = subprocess.run([sys.executable, "-P", "-c", barred], cwd=bundle, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"['{winner}']"


def architecture_of(model: Path) -> str:
    return json.dumps(json.loads((model / "open_clip_config.json").read_text())["model_cfg"])
