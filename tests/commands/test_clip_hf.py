"""A run on a CLIP folder in transformers' format, from training to a prediction without promptfed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from promptfed.api import load, train

sys.path.append(str(Path(__file__).parents[1] / "backbones"))  # for hf_folders.py, which is no test
from hf_folders import save_clip


@pytest.mark.slow
def test_train_resume_export_and_predict_with_a_folder(promptfed, tmp_path: Path) -> None:
    model, moved, bundle = (tmp_path / name for name in ("clip", "moved", "bundle"))
    save_clip(model)
    run = train(
        method="promptfl", method_options={"n_ctx": 2}, backbone=f"clip-hf:{model}", folder=tmp_path / "run",
        rounds=1, shots=1, clients=2, threads=1,
    )  # fmt: skip
    run.export(client=0, path=bundle)
    photo = bundle / "photo.jpg"
    Image.radial_gradient("L").convert("RGB").resize((32, 32)).save(photo)
    refusal = promptfed("predict", str(bundle), str(photo))
    assert refusal.code == 2
    assert "name your copy of it by --backbone clip-hf:FOLDER" in refusal.err
    model.rename(moved)
    with load(bundle, model=f"clip-hf:{moved}") as predictor:
        ((winner, _), *_) = predictor.predict([photo])[0].ranked
    moved.rename(model)
    code = re.findall(r"```python\n(.*?)```", (bundle / "README.md").read_text(), re.DOTALL)[0]
    barred = f"import sys\nsys.modules['promptfed'] = None\n{code}"
    done = subprocess.run([sys.executable, "-P", "-c", barred], cwd=bundle, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"['{winner}']"
