from __future__ import annotations

import json
import shutil

import pytest
from PIL import Image

from promptfed.export.bundle import read_bundle


@pytest.fixture
def run(finished, tmp_path):
    """A copy of the finished small run, to be written in."""
    return shutil.copytree(finished, tmp_path / "run")


@pytest.fixture
def newcomer(tmp_path):
    """Two classes nobody has seen, eight plain pictures of each."""
    for k, name in enumerate(["snow_leopard", "yak"]):
        (tmp_path / "house" / name).mkdir(parents=True)
        for i in range(8):
            Image.new("RGB", (16, 16), (200 * k, 40 + 9 * i, 90)).save(tmp_path / "house" / name / f"{i}.png")
    return tmp_path / "house"


def test_personalize_then_export_then_predict(run, promptfed, small, tmp_path):
    said = promptfed("personalize", run, "--epochs", 2, "--interpolate", "0,0.5,1")
    assert said.code == 0, said.err
    assert "each client's own" in said.out
    assert "client 2: alpha" in said.out
    curve = json.loads((run / "personalized" / "curve.json").read_text())
    assert [row["alpha"] for row in curve["rows"]] == [0.0, 0.5, 1.0, None]
    metrics = json.loads((run / "metrics.json").read_text())["method"]
    assert {key: curve["rows"][0][key] for key in ("local", "base", "new")} == pytest.approx(
        {key: metrics[key] for key in ("local", "base", "new")}
    ), "alpha 0 is what the run ended with"
    assert "Personalisation" in (run / "report.html").read_text()

    own, shared = tmp_path / "own", tmp_path / "shared"
    assert promptfed("export", run, "--client", 1, "--out", own).code == 0
    assert promptfed("export", run, "--client", 1, "--out", shared, "--shared").code == 0
    bundle, plain = read_bundle(own), read_bundle(shared)
    assert bundle.meta.alpha == curve["clients"][1]["alpha"]
    assert bundle.meta.chosen == curve["clients"][1]["why"]
    assert (len(bundle.tuned), len(plain.tuned), plain.meta.chosen) == (1, 0, "")
    folder = small[small.index("--data") + 1].removeprefix("folder:")
    assert promptfed("predict", own, f"{folder}/koi/0.png", "--classes", "koi,lynx").code == 0


def test_the_same_again_does_nothing_and_says_the_same(run, promptfed):
    figures = promptfed("eval", run, "--json").out
    first = promptfed("personalize", run, "--epochs", 1, "--interpolate", "0,1", "--json")
    before = (run / "personalized" / "client-0.json").stat().st_mtime_ns
    again = promptfed("personalize", run, "--epochs", 1, "--interpolate", "0,1", "--json")
    assert first.code == again.code == 0
    assert json.loads(first.out) == json.loads(again.out)
    assert (run / "personalized" / "client-0.json").stat().st_mtime_ns == before
    assert promptfed("eval", run, "--json").out == figures, "eval scores what was trained"


def test_onboard_gives_a_newcomer_a_bundle(run, newcomer, promptfed):
    said = promptfed("onboard", run, "--data", f"folder:{newcomer}", "--epochs", 2, "--shots", 2)
    assert said.code == 0, said.err
    for text in ("zero-shot", "shared prompt", "its own prompt", "alpha"):
        assert text in said.out
    folder = run / "bundles" / "house"
    assert str(folder) in said.out
    bundle = read_bundle(folder)
    assert (bundle.meta.client, bundle.meta.client_name) == (3, "house")
    assert bundle.meta.classes == ("snow leopard", "yak")
    assert promptfed("predict", folder, newcomer / "yak" / "0.png").code == 0
    again = promptfed("onboard", run, "--data", f"folder:{newcomer}", "--epochs", 2, "--shots", 2)
    assert again.code == 2
    assert "already holds a bundle" in again.err


def test_onboard_json_has_every_figure(run, newcomer, promptfed, tmp_path):
    words = ["--data", f"folder:{newcomer}", "--name", "house 9", "--epochs", 1, "--val-shots", 2, "--shots", 2]
    said = promptfed("onboard", run, *words, "--interpolate", "0,1", "--out", tmp_path / "b", "--json")
    found = json.loads(said.out)
    assert found["images"] == {"train": 4, "val": 4, "test": 6}
    assert found["curve"]["alphas"] == [0.0, 1.0]
    assert found["shared"] == found["curve"]["test"][0]
    assert found["personal"] == found["curve"]["test"][found["curve"]["alphas"].index(found["alpha"])]
    assert 0 <= found["zero_shot"] <= 1


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["--method", "none"], ["nothing of their own", "--method finetune"]),
        (["--method", "fine"], ["method", "fine", "'finetune' or 'none'"]),
        (["--lr", "fast"], ["lr", "fast", "number"]),
        (["--lr", "-1"], ["lr", "-1", "greater than 0"]),
        (["--epochs", "0"], ["epochs", "0", "greater than or equal to 1"]),
        (["--l2-to-global", "-3"], ["l2_to_global", "-3"]),
        (["--interpolate", "0,2"], ["0,2", "from 0 to 1"]),
        (["--space", "middle"], ["space", "middle", "'prompt' or 'features'"]),
    ],
)
def test_personalize_refuses_in_one_line(run, promptfed, words, parts):
    said = promptfed("personalize", run, *words)
    assert said.code == 2
    assert said.err.startswith("error: ")
    assert said.err.count("\n") == 1
    for part in parts:
        assert part in said.err
    assert not (run / "personalized").exists()


def test_onboard_refuses_in_one_line(run, promptfed, tmp_path):
    said = promptfed("onboard", run, "--data", f"folder:{tmp_path / 'none'}")
    assert said.code == 2
    assert "does not exist" in said.err
    assert said.err.count("\n") == 1
    assert promptfed("onboard", tmp_path, "--data", "icons").code == 2
