"""A run on a server behind an API that is interrupted, or fails: a clean end, at the start and later."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

PATIENCE = 60
"""Seconds that a busy machine may need to load everything."""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROMPTFED_CACHE", str(tmp_path / "cache"))
    for name in ("OPENAI_API_KEY", "GROQ_API_KEY"):
        monkeypatch.delenv(name, raising=False)


def wait_for(holds: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not holds() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert holds(), process.poll()


@pytest.mark.slow
@pytest.mark.parametrize("calm", [0, 3, 30])
def test_ctrl_c_is_heeded_while_a_server_asks_to_wait(promptfed, stub_server, words, tmp_path, calm):
    """``calm`` requests are answered; 0: the server asks to wait at once, 3: while it is probed or scored."""
    stub = stub_server(fault=lambda number, body: "429 60" if number > calm else "")
    run = tmp_path / "run"
    command = [sys.executable, "-P", "-m", "promptfed.cli", "train", *words(stub), "--run", str(run)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    try:
        wait_for(lambda: stub.count("refused") > 0, process)
        time.sleep(0.5)  # the answer is read, the wait begins
        start = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=15)
        seconds = time.monotonic() - start
    finally:
        process.kill()
    assert process.returncode == 130, said
    assert seconds < 10, "60 were asked for"
    assert "Traceback" not in said
    assert "--resume" in said
    good = {asked.identity for asked in stub.asked if asked.outcome == "answered"}
    stub.reset()
    stub.fault = lambda number, body: ""
    assert promptfed("train", "--resume", run).code == 0
    again = [asked.identity for asked in stub.asked]
    assert not good & set(again), "what was answered is kept"
    assert (run / "metrics.json").exists()


@pytest.mark.parametrize(
    "key", ["sk-Zk3jVw7tQpX91mLdN5é", "“sk-Zk3jVw7tQpX91mLdN5”", "sk-ключ-91mLdN5", "sk-91\x07mLdN5xyz"]
)
@pytest.mark.parametrize(
    ("variable", "address"),
    [
        ("MY_KEY", ["--api-key-env", "MY_KEY"]),
        ("OPENAI_API_KEY", ["--base-url", "https://api.openai.com/v1"]),
        ("GROQ_API_KEY", ["--base-url", "https://api.groq.com/openai/v1"]),
    ],
)
def test_a_key_that_no_header_carries_is_one_line(
    promptfed, stub_server, words, tmp_path, monkeypatch, key, variable, address
):
    monkeypatch.setenv(variable, key)
    stub = stub_server()
    said = promptfed("train", *words(stub), *address, "--run", tmp_path / "run")
    assert said.code == 2
    assert said.err.startswith(f"error: environment variable {variable} holds characters that no key has")
    assert said.err.count("\n") == 1
    assert key not in said.err
    assert stub.asked == []
    assert not (tmp_path / "run").exists()


def test_a_key_that_breaks_between_two_runs_is_no_clients_failure(promptfed, stub_server, words, tmp_path, monkeypatch):
    monkeypatch.setenv("MY_KEY", "sk-Zk3jVw7tQpX91mLdN5")
    stub, run = stub_server(), tmp_path / "run"
    options = ["--api-key-env", "MY_KEY", "--run", run, "--max-calls", 30]
    assert promptfed("train", *words(stub), *options).code == 3
    monkeypatch.setenv("MY_KEY", "sk-Zk3jVw7tQpX91mLdN5…")
    said = promptfed("train", "--resume", run, "--max-calls", 5000)
    assert said.code == 2
    assert "holds characters that no key has" in said.err
    assert '"failure": "error' not in (run / "events.jsonl").read_text()
    monkeypatch.setenv("MY_KEY", "sk-Zk3jVw7tQpX91mLdN5")
    assert promptfed("train", "--resume", run, "--max-calls", 5000).code == 0


def fails(kind: str, stub: Any) -> str:
    if kind == "gone":
        stub._server.socket.close()
        return "reset"
    return kind


@pytest.mark.parametrize("answered", [0, 1, 20, 45])
@pytest.mark.parametrize(
    ("kind", "says"),
    [("gone", "connection was lost"), ("503", "status 503"), ("403", "status 403"), ("truncated", "cut off")],
)
def test_a_failure_ends_as_cleanly_later_as_at_the_start(promptfed, stub_server, words, tmp_path, kind, says, answered):
    stub = stub_server()
    stub.fault = lambda number, body: fails(kind, stub) if number > answered else ""
    run = tmp_path / "run"
    said = promptfed("train", *words(stub), "--run", run, "--set", "oracle.retries=0")
    assert said.code == 2
    assert "Traceback" not in said.err
    assert says in said.err or "cannot be reached" in said.err
    errors = [line for line in said.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "fault of promptfed" not in said.err
    assert "--resume" in said.err
    events = run / "events.jsonl"
    assert not events.exists() or '"failure": "error' not in events.read_text()
