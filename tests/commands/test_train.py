from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import yaml
from safetensors.torch import load_file

from promptfed.runs.directory import RunDirectory


def prompts(folder):
    """Every finished prompt of a run as bytes: the method's, and the baselines'."""
    newest = {}
    for file in sorted(folder.glob("**/round-*/state.safetensors")):
        newest[str(file.parent.parent.relative_to(folder))] = file.read_bytes()
    return newest


def test_a_run_leaves_everything_behind(finished):
    metrics = json.loads((finished / "metrics.json").read_text())
    for row in ("zero_shot", "local_only", "method"):
        assert {"name", "local", "local_std", "local_all", "base", "new", "hm", "domains"} <= set(metrics[row])
        assert metrics[row]["intervals"]["base"][0] <= metrics[row]["base"] <= metrics[row]["intervals"]["base"][1]
        assert 0 <= metrics[row]["base"] <= 1
    assert metrics["cost"]["bytes_up"] > 0
    assert {"image_encoder_calls", "text_encoder_calls", "seconds", "bytes_down"} <= set(metrics["cost"])
    assert "{}" in metrics["template"]
    assert "<html" in (finished / "report.html").read_text()
    assert (finished / "run.log").stat().st_size > 0
    assert sorted(p.name for p in (finished / "checkpoints").glob("round-*"))[-1] == "round-0002"


def test_events_count_bytes_as_serialised(finished):
    events = RunDirectory.open(finished).events.read()
    clients = [e for e in events if e["event"] == "client" and e["stage"] == "promptfl"]
    assert [(e["round"], e["client"]) for e in clients] == [(r, c) for r in (1, 2) for c in range(3)]
    assert {e["bytes_up"] for e in clients} == {e["bytes_down"] for e in clients}
    assert all(e["bytes_up"] >= 16 * 128 * 4 for e in clients), "sixteen tokens of 128 float32, and a header"
    local = [e for e in events if e["event"] == "client" and e["stage"] == "local_only"]
    assert {e["bytes_up"] for e in local} == {0}
    cost = json.loads((finished / "metrics.json").read_text())["cost"]
    assert cost["bytes_up"] == sum(e["bytes_up"] for e in events if e["event"] == "client")


def test_the_saved_config_repeats_the_run_bit_for_bit_without_encoding_an_image(finished, tmp_path, promptfed):
    said = promptfed("train", "--config", finished / "config.yaml", "--run", tmp_path / "again", "--json")
    assert said.code == 0, said.err
    assert prompts(tmp_path / "again") == prompts(finished)
    again = json.loads(said.out)
    assert again["cost"]["image_encoder_calls"] == 0
    first = json.loads((finished / "metrics.json").read_text())
    assert again["method"] == first["method"]
    assert again["prompt_sha256"] == first["prompt_sha256"]


def test_config_holds_every_option_that_matters(finished):
    saved = yaml.safe_load((finished / "config.yaml").read_text())
    assert saved["rounds"] == 2
    assert saved["method_options"]["lr"] > 0
    assert saved["task_options"]["val_shots"] == 1


@pytest.mark.parametrize("moment", [2, 10])
@pytest.mark.slow
def test_killed_at_any_moment_and_resumed_it_ends_with_the_same_bytes(finished, tmp_path, small, promptfed, moment):
    """SIGKILL once ``moment`` client events are written; then resume in this process."""
    folder = tmp_path / "killed"
    words = [sys.executable, "-P", "-m", "promptfed.cli", "train", *small, "--run", str(folder), "--quiet"]
    with subprocess.Popen(words, env=os.environ, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        events = folder / "events.jsonl"
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            if events.exists() and events.read_text().count('"client"') >= moment:
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.002)
        process.wait()
    said = promptfed("train", "--resume", folder, "--json")
    assert said.code == 0, said.err
    assert prompts(folder) == prompts(finished)
    events = RunDirectory.open(folder).events.read()
    done = [(e["stage"], e["round"], e["client"]) for e in events if e["event"] == "client"]
    assert len(done) == len(set(done)) == 3 + 6 + 6, "no client's work is counted twice"


def test_ctrl_c_saves_after_the_current_client_and_says_how_to_go_on(finished, tmp_path, small, promptfed, monkeypatch):
    from promptfed.training import Training

    record, seen = Training._record, []

    def press(self, stage, reply, sent):
        record(self, stage, reply, sent)
        seen.append(reply)
        if len(seen) == 11:  # zero-shot 3, local-only 6, PromptFL's second client
            os.kill(os.getpid(), signal.SIGINT)

    folder = tmp_path / "stopped"
    monkeypatch.setattr(Training, "_record", press)
    said = promptfed("train", *small, "--run", folder)
    monkeypatch.undo()
    assert said.code == 130
    assert f"promptfed train --resume {folder}" in " ".join(said.err.split())
    assert len(seen) == 11, "no further client began"
    assert promptfed("train", "--resume", folder, "--quiet").code == 0
    assert prompts(folder) == prompts(finished)


def test_resuming_a_finished_run_changes_nothing(finished, promptfed):
    before = prompts(finished)
    said = promptfed("train", "--resume", finished, "--json")
    assert said.code == 0
    assert prompts(finished) == before


def test_the_table_and_the_folder_end_the_output(tmp_path, small, promptfed):
    said = promptfed("train", *small, "--rounds", 1, "--run", tmp_path / "r")
    assert said.code == 0, said.err
    for word in ("zero-shot", "local-only", "PromptFL", "base", "HM", "report.html"):
        assert word in said.out
    assert "round 1/1" in said.err


@pytest.mark.parametrize("partition", ["dirichlet", "iid"])
def test_other_partitions_train(tmp_path, small, promptfed, partition):
    said = promptfed("train", *small, "--partition", partition, "--rounds", 1, "--run", tmp_path / "r", "--json")
    assert said.code == 0, said.err
    assert json.loads(said.out)["method"]["base"] >= 0


def test_participation_and_uniform_aggregation(tmp_path, small, promptfed):
    words = ["--participation", 0.34, "--aggregator", "uniform", "--run", tmp_path / "r", "--quiet"]
    assert promptfed("train", *small, *words).code == 0
    events = RunDirectory.open(tmp_path / "r").events.read()
    assert [e["clients"] for e in events if e["event"] == "round" and e["stage"] == "promptfl"] == [1, 1]


def test_ctrl_c_while_images_are_encoded_keeps_those_that_are(tmp_path, promptfed, monkeypatch, small):
    from promptfed.backbones.openclip import OpenClipBackbone

    encode, batches = OpenClipBackbone.encode_images, []

    def press(self, pixels):
        batches.append(len(pixels))
        if len(batches) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return encode(self, pixels)

    monkeypatch.setenv("PROMPTFED_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(OpenClipBackbone, "encode_images", press)
    said = promptfed("train", *small, "--run", tmp_path / "r")
    assert said.code == 130
    assert "16 of" in said.err
    assert sum(batches) == 16
    resumed = json.loads(promptfed("train", "--resume", tmp_path / "r", "--json").out)
    kept = [load_file(f)["keys"] for f in (tmp_path / "cache").glob("**/images/*.safetensors")]
    assert resumed["cost"]["image_encoder_calls"] == sum(map(len, kept)) - 16
