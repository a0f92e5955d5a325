"""Who a model is and where it is are two things: another address, another path, the same run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch

ARCHITECTURE: dict[str, Any] = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROMPTFED_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@pytest.mark.slow
@pytest.mark.parametrize("written", ["http://localhost:{}/v1/", "http://LOCALHOST:{}/v1", "HTTP://127.0.0.1:{}/v1/"])
def test_a_server_under_another_spelling_is_asked_nothing_twice(
    promptfed, stub_server, words, tmp_path, own_cache, written
):
    stub, run, bundle = stub_server(), tmp_path / "run", tmp_path / "bundle"
    elsewhere = written.format(stub.base_url.split(":")[2].removesuffix("/v1"))
    assert promptfed("train", *words(stub), "--run", run).code == 0
    trained = json.loads((run / "metrics.json").read_text())
    stub.reset()
    said = promptfed("eval", run, "--base-url", elsewhere, "--json")
    assert said.code == 0, said.err
    [figures] = json.loads(said.out).values()
    assert figures["method"] == trained["method"]
    assert stub.asked == []

    assert promptfed("export", run, "--client", 0, "--out", bundle, "--base-url", elsewhere).code == 0
    said = promptfed("predict", bundle, "the ice 999", "the lava 998", "--base-url", elsewhere)
    assert said.code == 0, said.err
    assert 0 < len(stub.asked) <= 2, "they are new; nothing is probed again"
    stub.reset()
    for address in (stub.base_url, elsewhere, stub.base_url + "/"):
        again = promptfed("predict", bundle, "the ice 999", "the lava 998", "--base-url", address)
        assert again.out == said.out
    assert promptfed("predict", bundle, "the ice 999", "the lava 998").out == said.out, "its own address, known by now"
    assert promptfed("train", *words(stub), "--base-url", elsewhere, "--run", tmp_path / "second").code == 0
    assert stub.asked == []


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A file with random weights of the architecture small-moved, which open_clip knows from now on."""
    (tmp_path / "small-moved.json").write_text(json.dumps(ARCHITECTURE))
    open_clip.add_model_config(tmp_path / "small-moved.json")
    path = tmp_path / "first" / "weights.pt"
    path.parent.mkdir()
    with torch.random.fork_rng():
        torch.manual_seed(2)
        torch.save(open_clip.create_model("small-moved", pretrained=None).state_dict(), path)
    return path


@pytest.mark.slow
def test_weights_at_another_path_are_the_same_model(promptfed, small, tmp_path, weights, own_cache):
    run, bundle = tmp_path / "run", tmp_path / "bundle"
    picture = next(Path(small[small.index("--data") + 1].removeprefix("folder:")).rglob("*.png"))
    first = f"open_clip:small-moved/{weights}"
    said = promptfed("train", *small, "--set", f"backbone={first}", "--run", run, "--quiet")
    assert said.code == 0, said.err
    trained = json.loads((run / "metrics.json").read_text())
    moved = tmp_path / "second place" / "same.pt"
    moved.parent.mkdir()
    weights.rename(moved)
    second = f"open_clip:small-moved/{moved}"

    for command in (["eval", run], ["personalize", run], ["train", "--resume", run]):
        lost = promptfed(*command)
        assert lost.code == 2, command
        assert lost.err.count("\n") <= 2, lost.err
        assert str(weights) in lost.err.replace("\n", "")

    said = promptfed("eval", run, "--backbone", second, "--json")
    assert said.code == 0, said.err
    [figures] = json.loads(said.out).values()
    assert figures["method"] == trained["method"]
    assert promptfed("export", run, "--client", 0, "--out", bundle, "--backbone", second).code == 0
    assert promptfed("predict", bundle, picture, "--backbone", second).code == 0
    said = promptfed("personalize", run, "--backbone", second, "--epochs", 1, "--interpolate", "0,1")
    assert said.code == 0, said.err
    said = promptfed("train", "--resume", run, "--backbone", second, "--rounds", 3, "--json")
    assert said.code == 0, said.err
    assert json.loads(said.out)["method"].keys() == trained["method"].keys()


def test_other_weights_at_the_old_path_are_refused(promptfed, small, tmp_path, weights, own_cache):
    run = tmp_path / "run"
    first = f"open_clip:small-moved/{weights}"
    said = promptfed("train", *small, "--set", f"backbone={first}", "--run", run, "--quiet", "--rounds", 1)
    assert said.code == 0, said.err
    with torch.random.fork_rng():
        torch.manual_seed(3)
        other = tmp_path / "other.pt"
        torch.save(open_clip.create_model("small-moved", pretrained=None).state_dict(), other)
    for command in (["eval", run], ["export", run, "--client", 0], ["personalize", run]):
        said = promptfed(*command, "--backbone", f"open_clip:small-moved/{other}")
        assert said.code == 2, command
        assert "Traceback" not in said.err
