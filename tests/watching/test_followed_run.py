"""A run followed by its event log: read on, cut, killed, damaged, and never through a link."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from promptfed.watching.followed_run import QUIET_SECONDS, FollowedRun
from promptfed.watching.page import live_part

NOW = 1_800_000_000.0


@pytest.fixture
def log(tmp_path: Path) -> Callable[..., Path]:
    """``log("round", stage="promptfl", round=1)`` appends an event to the run's log."""

    def write(kind: str, **fields: Any) -> Path:
        with (tmp_path / "events.jsonl").open("a") as file:
            file.write(json.dumps({"event": kind, "time": "2026-11-29T12:00:00.000+00:00", **fields}) + "\n")
        os.utime(tmp_path / "events.jsonl", (NOW, NOW))
        return tmp_path

    return write


def start(log: Callable[..., Path]) -> FollowedRun:
    path = log("run_start", method="promptfl", config={"method": "promptfl", "rounds": 4, "data": "icons"})
    run = FollowedRun(path, "mine")
    assert run.update()
    return run


def reply(log: Callable[..., Path], client: int, **more: Any) -> None:
    fields = {"stage": "promptfl", "round": 1, "client": client, "loss": 0.5, "accuracy": 0.25, "bytes_up": 10}
    log("client", **{**fields, "bytes_down": 20, "seconds": 1.5, "failure": "", **more})


def test_it_reads_on_from_where_it_was(log: Callable[..., Path]) -> None:
    run = start(log)
    assert not run.update()
    reply(log, 0)
    reply(log, 1, failure="dropped out")
    assert run.update()
    assert run.main.since == 2
    log("round", stage="promptfl", round=1, loss=0.5, val_accuracy=0.75)
    run.update()
    assert (run.main.since, run.main.rounds[0]["val_accuracy"], run.planned) == (0, 0.75, 4)
    assert (run.main.clients[0].loss, run.main.clients[1].lost, run.main.clients[1].failure) == (0.5, 1, "dropped out")
    assert (run.cost().bytes_up, run.cost().bytes_down, run.cost().seconds) == (20, 40, 3.0)
    assert run.messages[-1][1] == "promptfl, round 1: client 1 lost: dropped out"


def test_a_secure_sum_costs_its_clients(log: Callable[..., Path]) -> None:
    run = start(log)
    reply(log, 0, bytes_up=900)
    log("sum", stage="promptfl", round=1, client=0, bytes_up=25_000, bytes_down=3_000)
    log("round", stage="promptfl", round=1, loss=None, val_accuracy=0.75)
    run.update()
    assert (run.main.clients[0].cost.bytes_up, run.main.cost.bytes_up, run.cost().bytes_down) == (25_900, 25_900, 3_020)
    assert run.main.clients[0].rounds == 1
    assert "25.9 kB" in live_part([run], now=NOW)


def test_a_line_that_is_being_written_waits_for_its_end(log: Callable[..., Path]) -> None:
    run = start(log)
    with (run.path / "events.jsonl").open("a") as file:
        file.write('{"event": "run_end", ')
        file.flush()
        assert not run.update()
        file.write('"time": "2026-11-29T12:00:01+00:00"}\n')
    assert run.update()
    assert run.state(NOW) == ("finished", "")


def test_a_log_that_was_cut_and_written_on_is_read_anew(log: Callable[..., Path]) -> None:
    run = start(log)
    size = (run.path / "events.jsonl").stat().st_size
    reply(log, 0)
    reply(log, 1)
    run.update()
    os.truncate(run.path / "events.jsonl", size)
    for client in (5, 6, 7):
        reply(log, client)
    run.update()
    assert list(run.main.clients) == [5, 6, 7]
    assert run.cost().bytes_up == 30


def test_a_killed_run_says_since_when(log: Callable[..., Path]) -> None:
    run = start(log)
    (run.path / ".lock").touch()
    assert run.state(NOW + 1)[0] == "running"
    state, words = run.state(NOW + 10_000)
    assert (state, words) == ("stopped", "no sign of life since 2026-11-29 12:00:00 UTC")


@pytest.mark.skipif(not Path("/proc/locks").exists(), reason="the system does not tell who holds a lock")
def test_a_run_whose_lock_is_held_runs_however_long_it_is_silent(log: Callable[..., Path]) -> None:
    run = start(log)
    with FileLock(run.path / ".lock"):
        assert run.state(NOW + 10_000)[0] == "running"
    assert run.state(NOW + 10_000)[0] == "stopped"
    assert run.state(NOW + QUIET_SECONDS / 2)[0] == "running"


def test_a_stop_has_its_reason_and_a_resumed_run_runs_again(log: Callable[..., Path]) -> None:
    run = start(log)
    log("stopped", why="Ctrl-C")
    run.update()
    assert run.state(NOW) == ("stopped", "Ctrl-C")
    log("resume", environment={})
    run.update()
    assert run.state(NOW)[0] == "running"


@pytest.mark.parametrize("line", ["{", '{"event": "round"}', "[]", '{"event": "client", "time": "x", "stage": "s"}'])
def test_a_damaged_log_is_said_and_not_read_further(log: Callable[..., Path], line: str) -> None:
    run = start(log)
    with (run.path / "events.jsonl").open("a") as file:
        file.write(line + "\n")
    reply(log, 0)
    run.update()
    state, words = run.state(NOW)
    assert state == "damaged"
    assert words.startswith("a line of events.jsonl ")
    assert not run.stages


def test_a_link_to_elsewhere_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text('{"event": "run_start", "time": "2026", "method": "secret"}\n')
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "events.jsonl").symlink_to(tmp_path / "secret")
    run = FollowedRun(tmp_path / "run", "x")
    assert not run.update()
    assert run.method == ""
    assert run.state(time.time())[0] == "damaged"


def test_a_run_without_a_log_waits(tmp_path: Path) -> None:
    run = FollowedRun(tmp_path, "x")
    assert not run.update()
    assert run.state(NOW)[0] == "waiting"


@pytest.mark.skipif(not Path("/proc/locks").exists(), reason="the system does not tell who holds a lock")
def test_a_run_without_an_event_says_what_it_may_wait_for(tmp_path: Path) -> None:
    run = FollowedRun(tmp_path, "hospitals-run")
    with FileLock(tmp_path / ".lock"):
        assert run.state(NOW)[0] == "running"
        text = live_part([run], now=NOW)
    assert "a server waits for its sites" in text
    assert "-, round 0" not in text
