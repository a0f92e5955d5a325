"""Runs on a paid oracle through the command line: budgets, going on, faulty servers, and no key anywhere."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from promptfed.cli import main

KEY = "sk-Zk3jVw7tQpX91mLdN5-abcdefghij"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test pays for itself."""
    monkeypatch.setenv("PROMPTFED_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    return tmp_path / "cache"


def metrics_of(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "metrics.json").read_text())
    return found


def identities(stub: Any) -> list[str]:
    return [asked.identity for asked in stub.asked]


@pytest.mark.slow
def test_a_run_stops_at_its_budget_and_goes_on_when_it_is_raised(promptfed, stub_server, words, tmp_path):
    calm, stub = stub_server(), stub_server()
    whole = promptfed("train", *words(calm), "--run", tmp_path / "whole", "--json")
    assert whole.code == 0
    assert metrics_of(tmp_path / "whole")["cost"]["oracle_calls"] == len(calm.asked)

    run = tmp_path / "run"
    said = promptfed("train", *words(stub), "--run", run, "--max-calls", "30")
    assert said.code == 3
    assert "budget of 30 calls is used up" in said.err.replace("\n", " ")
    assert "--resume" in said.err
    assert "Traceback" not in said.err
    assert len(stub.asked) == 30

    again = promptfed("train", "--resume", run)
    assert again.code == 3
    assert len(stub.asked) == 30

    for limit in (40, len(calm.asked) - 2):  # the second one ends in the tests
        assert promptfed("train", "--resume", run, "--max-calls", limit).code == 3
        assert len(stub.asked) == limit
    done = promptfed("train", "--resume", run, "--max-calls", 5000, "--max-usd", 3)
    assert done.code == 0
    assert f"oracle {len(stub.asked)} calls" in done.out.replace("\n", " ")
    assert len(identities(stub)) == len(set(identities(stub))) == len(calm.asked)
    options = yaml.safe_load((run / "config.yaml").read_text())["oracle_options"]
    assert (options["max_calls"], options["max_usd"]) == (5000, 3.0)
    ours, theirs = metrics_of(run), metrics_of(tmp_path / "whole")
    assert ours["prompt_sha256"] == theirs["prompt_sha256"]
    assert ours["method"] == theirs["method"]
    assert ours["cost"]["oracle_calls"] == theirs["cost"]["oracle_calls"] == len(calm.asked)


def test_resume_takes_budgets_and_nothing_else(promptfed, stub_server, words, tmp_path, finished):
    run = tmp_path / "run"
    assert promptfed("train", *words(stub_server()), "--run", run, "--max-tokens", "200").code == 3
    said = promptfed("train", "--resume", run, "--max-calls", 5, "--shots", 4, "--seed", 7)
    assert said.code == 2
    assert "leave out --shots, --seed" in said.err
    assert promptfed("train", "--resume", run, "--max-calls", "many").code == 2
    said = promptfed("train", "--resume", run, "--api-key-env", "PROMPTFED_NO_SUCH_KEY")
    assert said.code == 2
    assert "PROMPTFED_NO_SUCH_KEY is not set" in said.err
    assert promptfed("train", "--resume", finished, "--max-calls", 5).code == 2


def test_a_second_run_asks_nothing(promptfed, stub_server, words, tmp_path):
    stub = stub_server()
    promptfed("train", *words(stub), "--run", tmp_path / "one")
    asked = len(stub.asked)
    promptfed("train", *words(stub), "--run", tmp_path / "two")
    assert len(stub.asked) == asked
    one, two = metrics_of(tmp_path / "one"), metrics_of(tmp_path / "two")
    assert one["prompt_sha256"] == two["prompt_sha256"]
    assert two["cost"].get("oracle_calls", 0) == 0
    assert two["cost"]["oracle_cache_hits"] == two["cost"]["oracle_queries"] > 0


FAULTS = ("429", "429 0", "500", "truncated", "no logprobs", "nan logprobs", "reset")


@pytest.mark.parametrize("method", ["zero_shot", "fedbdpl"])
@pytest.mark.slow
def test_a_run_on_a_faulty_server_ends_as_on_a_good_one(promptfed, stub_server, words, tmp_path, method, cache):
    calm = stub_server()
    promptfed("train", *words(calm, method), "--run", tmp_path / "calm")
    stub = stub_server(fault=lambda number, body: FAULTS[number % len(FAULTS)] if number % 3 else "")
    assert promptfed("train", *words(stub, method), "--run", tmp_path / "run").code == 0
    ours, theirs = metrics_of(tmp_path / "run"), metrics_of(tmp_path / "calm")
    assert ours["prompt_sha256"] == theirs["prompt_sha256"]
    assert ours["method"] == theirs["method"]
    assert ours["cost"]["oracle_calls"] == stub.count("answered", "lost")
    assert ours["cost"]["oracle_retries"] == len(stub.asked) - len(calm.asked)


@pytest.mark.parametrize(("fault", "says"), [("401", "status 401"), ("wrong model", "other-9"), ("500", "status 500")])
def test_a_server_that_fails_for_good_stops_the_run_and_loses_nothing(
    promptfed, stub_server, words, tmp_path, fault, says
):
    stub = stub_server(fault=lambda number, body: fault if number > 25 else "")
    run = tmp_path / "run"
    said = promptfed("train", *words(stub), "--run", run, "--set", "oracle.retries=2")
    assert said.code == 2
    assert says in said.err
    assert "--resume" in said.err
    good = {asked.identity for asked in stub.asked[:25]}
    stub.reset()
    stub.fault = lambda number, body: ""
    assert promptfed("train", "--resume", run).code == 0
    assert not good & set(identities(stub))
    assert len(identities(stub)) == len(set(identities(stub)))
    events = (run / "events.jsonl").read_text()
    assert '"failure": "error' not in events


@pytest.mark.parametrize("fault", ["", "401", "429"])
def test_the_key_is_nowhere(promptfed, stub_server, words, tmp_path, cache, fault, monkeypatch, caplog):
    monkeypatch.setenv("SOME_KEY", KEY)
    stub = stub_server(fault=lambda number, body: fault if number > 12 or fault == "401" else "")
    run = tmp_path / "run"
    with caplog.at_level("DEBUG"):
        said = promptfed("train", *words(stub), "--run", run, "--api-key-env", "SOME_KEY", "--set", "oracle.retries=1")
        promptfed("list", "runs")
    assert said.code == (2 if fault else 0)
    assert stub.asked[0].authorization == f"Bearer {KEY}"
    assert KEY not in said.out + said.err + caplog.text
    files = [path for folder in (run, cache) for path in folder.rglob("*") if path.is_file()]
    assert any(path.name == "answers.sqlite" for path in files)
    for path in files:
        assert KEY.encode() not in path.read_bytes(), path
    if run.exists():
        assert "SOME_KEY" in (run / "config.yaml").read_text()


def test_a_key_in_the_wrong_place_is_not_written_down(promptfed, stub_server, words, tmp_path):
    stub = stub_server()
    for wrong in (["--api-key-env", KEY], ["--base-url", f"http://me:{KEY}@127.0.0.1:1/v1"]):
        said = promptfed("train", *words(stub), "--run", tmp_path / "run", *wrong)
        assert said.code == 2
        assert KEY not in said.out + said.err
        assert not (tmp_path / "run").exists()
    assert stub.asked == []


@pytest.mark.slow
@pytest.mark.parametrize("concurrency", [1, 3, 8])
def test_a_killed_run_repeats_only_what_was_under_way(promptfed, stub_server, words, tmp_path, concurrency):
    stub = stub_server(slow=0.01)
    run = tmp_path / "run"
    options = [*words(stub), "--run", str(run), "--set", f"oracle.concurrency={concurrency}"]
    command = [sys.executable, "-P", "-m", "promptfed.cli", "train", *options]
    process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while len(stub.asked) < 40 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(0.1)
    assert len(stub.asked) >= 40
    assert promptfed("train", "--resume", run).code == 0
    repeated = len(identities(stub)) - len(set(identities(stub)))
    assert repeated <= concurrency
    calls = metrics_of(run)["cost"]["oracle_calls"]
    assert len(stub.asked) - 1 <= calls <= len(stub.asked) + concurrency


def test_main_exits_with_3_for_any_used_up_budget(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    from promptfed import cli
    from promptfed.errors import BudgetExhausted

    def spent(*words: Any, **more: Any) -> None:
        raise BudgetExhausted("the oracle's budget is used up")

    monkeypatch.setattr(cli, "build_command", lambda app: spent)
    with pytest.raises(SystemExit) as ended:
        main(["train"])
    assert ended.value.code == 3


@pytest.mark.slow
def test_refused_texts_are_left_out_named_and_counted_and_silence_ends_a_run(
    promptfed, stub_server, words, texts, tmp_path
):
    calm = stub_server(refuses=lambda text: (400, "content filter") if {"12", "13"} & set(text.split()) else None)
    done = promptfed("train", *words(calm), "--run", tmp_path / "calm")
    assert done.code == 0, done.err
    found = metrics_of(tmp_path / "calm")
    assert found["cost"]["oracle_unanswered"] > 0
    left = found["not_answered"]["left_out"]
    assert 0 < left["examples"] <= 2
    assert "content filter" in left["named"][0]["why"]
    shown = " ".join(done.out.split())
    assert f"{left['examples']} of {left['of']} examples left out, as the oracle refused them: '" in shown
    assert "not answered" in (tmp_path / "calm" / "report.html").read_text()

    silent = {"content": "<think>\nwell, it", "finish_reason": "length"}
    mute = stub_server(has_completions=False, has_logprobs=False, says=lambda text: silent)
    said = promptfed("train", *words(mute), "--run", tmp_path / "mute")
    assert said.code == 2
    assert "it thought and did not answer" in " ".join(said.err.split())
    assert "--resume" in said.err
    assert not (tmp_path / "mute" / "metrics.json").exists()
    mute.says = lambda text: None
    assert promptfed("train", "--resume", tmp_path / "mute").code == 0
    assert "not_answered" not in metrics_of(tmp_path / "mute")
