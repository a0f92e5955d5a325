"""Every way of merging from the command line."""

from __future__ import annotations

import json
import os
import signal

import pytest
import yaml

from promptfed.aggregators.base import AGGREGATORS

OPTIONS = {
    "krum": {"byzantine": 0},
    "multi_krum": {"byzantine": 0, "keep": 2},
    "trimmed_mean": {"trim": 0.3},
    "fedadam": {"server_lr": 0.02, "beta1": 0.5, "beta2": 0.9, "tau": 0.01},
    "fedavgm": {"momentum": 0.9},
    "geometric_median": {"smoothing": 1e-5},
    "fedamp": {"similarity": "cosine", "sigma": 2},
    "clustered": {"clusters": 2, "warmup": 1},
    "interpolated": {"beta": 0.3},
    "norm_bound": {"bound": 0.5},
    "centered_clip": {"tau": 0.5, "iterations": 3},
    "dnc": {"malicious": 1, "coordinates": 100},
    "bucketing": {"size": 2, "rule": "fedavgm", "options": {"momentum": 0.9}},
    "rlr": {"threshold": 0.1},
    "crfl": {"sigma": 0.01, "center": "zero", "rounds": 2},
    "fltrust": {"root": 1},
}


def words_for(name):
    settings = (f"aggregator.{key}={value}" for key, value in OPTIONS.get(name, {}).items())
    return ["--aggregator", name, *(word for setting in settings for word in ("--set", setting))]


@pytest.mark.slow
@pytest.mark.parametrize("name", tuple(AGGREGATORS))
def test_each_trains(name, small, tmp_path, promptfed):
    said = promptfed("train", *small, *words_for(name), "--run", tmp_path / name, "--json")
    assert said.code == 0, said.err
    metrics = json.loads(said.out)
    assert 0 <= metrics["method"]["hm"] <= 1
    saved = yaml.safe_load((tmp_path / name / "config.yaml").read_text())
    assert saved["aggregator"] == name
    assert OPTIONS.get(name, {}).items() <= saved["aggregator_options"].items()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fedamp", "centered_clip", "foolsgold", "bucketing", "crfl"])
def test_memory_of_the_server_survives_a_resume(name, small, tmp_path, promptfed):
    """Stop a rule that remembers, or draws random numbers, in the middle of round 2; the end is the same.

    FedAMP's clients are all sent different prompts.
    """
    from promptfed.runs.checkpoint import load_checkpoint
    from promptfed.training import Training

    words = ["train", *small, "--aggregator", name]
    assert promptfed(*words, "--run", tmp_path / "whole", "--quiet").code == 0
    record, seen = Training._record, []

    def press(self, stage, reply, sent):
        record(self, stage, reply, sent)
        seen.append(stage)
        if seen.count("promptfl") == 5:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Training, "_record", press)
        assert promptfed(*words, "--run", tmp_path / "cut").code == 130
    stopped = load_checkpoint(tmp_path / "cut" / "checkpoints").state
    assert [reply.client for reply in stopped.pending] == [0, 1]
    assert promptfed("train", "--resume", tmp_path / "cut", "--quiet").code == 0
    whole = load_checkpoint(tmp_path / "whole" / "checkpoints").state
    again = load_checkpoint(tmp_path / "cut" / "checkpoints").state
    assert again.shared == whole.shared
    assert again.server == whole.server
    memory = {"fedamp": {f"client/{client}/ctx" for client in range(3)}, "crfl": {"merges", "start/ctx"}}
    assert set(whole.server) == memory.get(name, set(whole.server))
    assert len(whole.server)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--aggregator", "krum"], "needs 5 updates a round"),
        (["--aggregator", "krums"], "Did you mean 'krum'?"),
        (["--aggregator", "trimmed_mean", "--set", "aggregator.trim=0.7"], "'trim' is 0.7"),
        (["--aggregator", "fedadam", "--set", "aggregator.beta3=0.7"], "unknown aggregator option 'beta3'"),
        (["--aggregator", "clustered", "--set", "aggregator.clusters=9"], "9 clusters of 3"),
        (["--aggregator", "fltrust"], "needs a client that the server trusts"),
        (["--aggregator", "bucketing", "--set", "aggregator.rule=fedamp"], "must know whose update is whose"),
        (["--aggregator", "bucketing", "--set", "aggregator.rule=medain"], "Did you mean 'median'?"),
        (["--aggregator", "bucketing", "--set", "aggregator.options={trim: 0.3}"], "unknown aggregator option 'trim'"),
        (["--aggregator", "multi_krum", "--participation", "0.5", "--set", "aggregator.byzantine=0"], "asked for"),
    ],
)
def test_what_cannot_work_is_said_at_the_start(words, said, small, tmp_path, promptfed):
    answer = promptfed("train", *small, *words, "--run", tmp_path / "r")
    assert answer.code == 2
    assert said in " ".join(answer.err.split())
    assert not (tmp_path / "r").exists()


def test_the_list_shows_each_with_options_and_defaults(promptfed):
    found = json.loads(promptfed("list", "aggregators", "--json").out)
    assert set(found) == set(AGGREGATORS)
    assert found["trimmed_mean"]["options"] == {"longest": 5.0, "trim": 0.2}
    assert found["multi_krum"]["options"] == {"longest": None, "byzantine": 1, "keep": None}
    for name, about in found.items():
        assert about["about"].endswith("."), f"{name}: a whole sentence"
        assert 20 < len(about["about"]) < 130
    assert len({about["about"] for about in found.values()}) == len(found), "none has another's description"
