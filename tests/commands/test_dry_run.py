"""promptfed train --dry-run: nothing is asked, and a run on a stub then costs what was said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from promptfed.blackbox.oracles.remote.probe import SAMPLE

PRICES = ["oracle.usd_per_million_prompt_tokens=2", "oracle.usd_per_million_completion_tokens=8"]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROMPTFED_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.chdir(tmp_path)


def is_probe(asked: Any) -> bool:
    return SAMPLE in json.dumps(asked.body) or "labels" in str(asked.body.get("prompt", ""))


def test_an_estimate_holds_on_a_stub_and_nothing_is_asked_for_it(promptfed, stub_server, words, tmp_path):
    stub = stub_server()
    prices = [word for price in PRICES for word in ("--set", price)]
    options = [*words(stub), *prices]
    said = promptfed("train", *options, "--dry-run", "--json")
    assert (said.code, said.err) == (0, "")
    assert stub.asked == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "heat.tsv"]
    plan = json.loads(said.out)
    total, most = plan["total"], plan["at_most"]
    assert promptfed("train", *options, "--run", tmp_path / "run").code == 0
    cost = json.loads((tmp_path / "run" / "metrics.json").read_text())["cost"]
    probes = sum(map(is_probe, stub.asked))
    assert 1 <= probes <= 12
    questions = total["calls"] - 1  # a probe of one request is among them
    assert abs(len(stub.asked) - probes - questions) <= 0.1 * questions
    tokens = cost["prompt_tokens"] + cost["completion_tokens"]
    assert 0.5 * tokens <= total["prompt_tokens"] + total["completion_tokens"] <= 2 * tokens
    assert tokens <= most["prompt_tokens"] + most["completion_tokens"]
    assert cost["usd"] <= most["usd"]
    assert 0.5 * cost["usd"] <= total["usd"] <= 2 * cost["usd"]
    assert {row["stage"] for row in plan["rows"]} == {"zero_shot", "fedbdpl"}

    again = json.loads(promptfed("train", *options, "--dry-run", "--json").out)
    assert again["total"]["calls"] == 0
    assert again["known"] > 0


def test_zero_shot_is_known_to_the_call(promptfed, stub_server, words, tmp_path):
    stub = stub_server()
    plan = json.loads(promptfed("train", *words(stub, "zero_shot"), "--dry-run", "--json").out)
    assert plan["agree"]
    promptfed("train", *words(stub, "zero_shot"), "--run", tmp_path / "run", "--quiet")
    assert len(stub.asked) - sum(map(is_probe, stub.asked)) == plan["total"]["calls"] - 1


def test_what_is_said(promptfed, stub_server, words):
    said = promptfed("train", *words(stub_server()), "--dry-run", "--max-calls", 20)
    shown = " ".join(said.out.split())
    for part in ("in all", "at most", "No price is given", "--max-calls 20 ends the run before its time"):
        assert part in shown
    quiet = promptfed("train", *words(stub_server()), "--dry-run", "--quiet").out
    assert len(quiet.split("\t")) == 4


def test_a_white_box_says_what_is_sent(promptfed, small, tmp_path):
    said = promptfed("train", *small, "--dry-run")
    assert said.out.startswith("3 clients; ")
    plan = json.loads(promptfed("train", *small, "--dry-run", "--json").out)
    assert plan["total"]["bytes_up"] == plan["bytes_up"] * 3 * 2
    promptfed("train", *small, "--run", tmp_path / "run", "--quiet", "--baselines", "none")
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["cost"]["bytes_up"] == plan["total"]["bytes_up"]


def test_a_dry_run_counts_the_messages_of_a_secure_sum(promptfed, small, tmp_path):
    pytest.importorskip("cryptography")
    options = [*small, "--set", "privacy.secure_aggregation=true"]
    plan = json.loads(promptfed("train", *options, "--dry-run", "--json").out)
    promptfed("train", *options, "--run", tmp_path / "run", "--quiet", "--baselines", "none")
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["cost"]["bytes_up"] == plan["total"]["bytes_up"]


def test_a_dry_run_is_about_a_new_run(promptfed, finished):
    said = promptfed("train", "--resume", finished, "--dry-run")
    assert (said.code, said.err.count("\n")) == (2, 1)
    assert "leave out --resume" in said.err
