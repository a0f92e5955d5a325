"""A run goes on, is evaluated and personalised on the data that it was begun with, or on none."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image


def paint(folder, names):
    for k, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for i in range(8):
            pixels = np.random.default_rng([k, i]).integers(0, 256, (6, 6, 3), np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    return folder


@pytest.mark.slow
def test_changed_data_are_refused_before_anything_is_written(promptfed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = paint(tmp_path / "data", ["cat", "dog"])
    options = "--clients 2 --shots 1 --rounds 1 --set task.val_shots=1 --set threads=1 --partition iid --quiet"
    assert promptfed("train", "--data", f"folder:{data}", *options.split(), "--run", "r").code == 0
    before = {path: path.read_bytes() for path in (tmp_path / "r").rglob("*.json")}
    (data / "dog").rename(data / "hund")
    for words in (("train", "--resume", "r"), ("eval", "r"), ("personalize", "r")):
        said = promptfed(*words)
        assert said.code == 2
        assert "no class 'dog' any more, and class 'hund' is new" in said.err
        assert "Traceback" not in said.err
    assert {path: path.read_bytes() for path in (tmp_path / "r").rglob("*.json")} == before
    (data / "hund").rename(data / "dog")
    assert promptfed("eval", "r").code == 0


def test_predict_takes_class_names_from_a_file(promptfed, finished, tmp_path):
    assert promptfed("export", finished, "--client", 0, "--out", tmp_path / "b").code == 0
    (tmp_path / "names.txt").write_text("cat, small\ndog\n", encoding="utf-8")
    Image.new("RGB", (8, 8), (200, 0, 0)).save(tmp_path / "a.png")
    said = promptfed("predict", tmp_path / "b", tmp_path / "a.png", "--classes", f"@{tmp_path / 'names.txt'}")
    assert said.code == 0
    assert "cat, small" in said.out
    said = promptfed("predict", tmp_path / "b", tmp_path / "a.png", "--classes", "@none.txt")
    assert said.code == 2
    assert "there is no file 'none.txt'" in said.err
