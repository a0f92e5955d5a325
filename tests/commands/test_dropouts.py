"""A run whose clients drop out, fail or send nonsense: it goes on, and says so."""

from __future__ import annotations

import json

import pytest

from promptfed.runs.directory import RunDirectory


@pytest.fixture
def events_of():
    """Events of the method's own stage."""
    return lambda folder: [e for e in RunDirectory.open(folder).events.read() if e.get("stage") == "promptfl"]


@pytest.mark.slow
def test_a_run_with_drop_outs_finishes_and_says_who_was_lost(small, tmp_path, promptfed, events_of):
    words = ["train", *small, "--rounds", 4, "--dropout", 0.5, "--quorum", 0]
    said = promptfed(*words, "--run", tmp_path / "r")
    assert said.code == 0, said.err
    clients = [e for e in events_of(tmp_path / "r") if e["event"] == "client"]
    lost = [e for e in clients if e["failure"]]
    assert len(clients) == 12
    assert 0 < len(lost) < 12
    for event in lost:
        assert event["failure"] == "dropped out"
        assert event["loss"] is None
        assert event["accuracy"] is None
        assert event["bytes_up"] == event["samples"] == 0
        assert event["bytes_down"] > 0
    for event in events_of(tmp_path / "r"):
        if event["event"] == "round":
            of_round = [e for e in lost if e["round"] == event["round"]]
            assert event["failed"] == len(of_round)
            assert (event["loss"] is None) == (len(of_round) == 3)
    assert f"{len(lost)} lost" in said.err
    report = (tmp_path / "r" / "report.html").read_text()
    assert f"<td>{len(lost)} of 12</td><td>dropped out {len(lost)}</td>" in report
    assert "nan" not in report.lower().replace("nano", "")

    assert promptfed(*words, "--run", tmp_path / "again", "--quiet").code == 0
    assert [e["failure"] for e in events_of(tmp_path / "again") if e["event"] == "client"] == [
        e["failure"] for e in clients
    ]
    first, again = (json.loads((tmp_path / run / "metrics.json").read_text()) for run in ("r", "again"))
    assert again["prompt_sha256"] == first["prompt_sha256"]


def test_baselines_are_spared(small, tmp_path, promptfed):
    assert promptfed("train", *small, "--rounds", 1, "--dropout", 0.9, "--run", tmp_path / "r", "--quiet").code == 0
    events = RunDirectory.open(tmp_path / "r").events.read()
    baselines = [e for e in events if e["event"] == "client" and e["stage"] in ("zero_shot", "local_only")]
    assert len(baselines) == 6
    assert not any(e["failure"] for e in baselines)


def test_when_nobody_ever_answers_the_run_still_ends(small, tmp_path, promptfed, events_of):
    said = promptfed("train", *small, "--rounds", 2, "--dropout", 0.99999, "--run", tmp_path / "r")
    assert said.code == 0, said.err
    rounds = [e for e in events_of(tmp_path / "r") if e["event"] == "round"]
    assert [(e["loss"], e["failed"]) for e in rounds] == [(None, 3), (None, 3)]
    assert all(0 <= e["val_accuracy"] <= 1 for e in rounds)
    assert "loss -" in said.err
    assert "loss nan" not in said.err
    assert "6 of 6" in (tmp_path / "r" / "report.html").read_text()


def test_a_client_that_sends_nan_is_refused_and_counted(small, tmp_path, promptfed, events_of, monkeypatch):
    from promptfed.methods.promptfl import PromptFL

    split_update = PromptFL.split_update

    def spoil(self, trained, broadcast, data, personal):
        if data.client == 1:
            trained = trained.map(lambda t: t * float("nan"))
        return split_update(self, trained, broadcast, data, personal)

    monkeypatch.setattr(PromptFL, "split_update", spoil)
    said = promptfed("train", *small, "--client-batch", 3, "--run", tmp_path / "r", "--json")
    assert said.code == 0, said.err
    failures = {e["client"]: e["failure"] for e in events_of(tmp_path / "r") if e["event"] == "client"}
    assert failures[0] == failures[2] == ""
    assert failures[1].startswith("refused: client 1 sent numbers that are not finite")
    assert "refused 2" in (tmp_path / "r" / "report.html").read_text()


def test_a_time_limit_makes_late_clients(small, tmp_path, promptfed, events_of):
    words = ["--round-seconds", 1e-9, "--quorum", 0.3, "--run", tmp_path / "r", "--quiet"]
    assert promptfed("train", *small, *words).code == 0
    events = events_of(tmp_path / "r")
    late = [e["client"] for e in events if e["event"] == "client" and e["failure"] == "late"]
    assert late[-2:] == [1, 2], "client 0 was the first to begin"
