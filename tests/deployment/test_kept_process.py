"""The kept process of a site, with an answer that needs no torch."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

if os.name == "nt":
    pytest.skip("Unix sockets", allow_module_level=True)

from promptfed.deployment import frames, kept_process, site_process
from promptfed.deployment.kept_process import DiedError, KeptProcess, NoProcessError, keep_seconds
from promptfed.deployment.process_tree import kill_all, started
from promptfed.errors import DeploymentError

PROGRAM = """
import os, signal, time
from promptfed.deployment.site_process import main

def build(node_config):
    count = 0
    def answer(question, began):
        nonlocal count
        count += 1
        if question.startswith(b"die") and not os.path.exists(question[4:]):
            open(question[4:], "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
        if question == b"always die":
            os._exit(7)
        if question.startswith(b"sleep"):
            time.sleep(60)
        return b"%d %d %s" % (os.getpid(), count, question)
    return answer

main(build)
"""


@pytest.fixture
def kept(tmp_path):
    """``kept(**words)``: the kept process of a site, which is killed at the end."""
    folder = frames.folder_for(tmp_path)
    mine = (os.getpid(), started(os.getpid()))

    def make(keep=60.0, anchor=mine, **words):
        return KeptProcess(folder, words, keep, anchor, ("-P", "-c", PROGRAM))

    yield make
    kill_all(holder(folder))


def holder(folder):
    try:
        about = json.loads((folder / frames.LOCK).read_text())
    except (OSError, ValueError):
        return {}
    return {about["process"]: about["started"]}


def ask(process, question=b"hello"):
    pid, count, echo = process.ask(question, time.monotonic()).split(b" ", 2)
    return int(pid), int(count), echo


def gone(pid, start, seconds=20.0):
    end = time.monotonic() + seconds
    while started(pid) == start and time.monotonic() < end:
        time.sleep(0.02)
    return started(pid) != start


def test_one_process_answers_message_after_message(kept):
    first, second = ask(kept()), ask(kept(), bytes(3_000_000))
    assert first[0] == second[0] != os.getpid()
    assert (first[1], second[1]) == (1, 2)
    assert second[2] == bytes(3_000_000)


def test_its_socket_is_for_this_user_alone(kept, tmp_path):
    ask(kept())
    folder = tmp_path / "process"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / frames.SOCKET).stat().st_mode) == 0o600


def test_a_process_that_is_killed_between_messages_is_started_again(kept):
    [pid, *_] = ask(kept())
    kill_all(holder(kept().folder))
    assert ask(kept())[0] != pid


def test_a_process_that_dies_with_a_message_costs_a_start(kept, tmp_path):
    mark = os.fsencode(tmp_path / "died")
    assert ask(kept(), b"die " + mark)[1:] == (1, b"die " + mark)


def test_a_message_that_kills_each_process_is_given_up(kept):
    with pytest.raises(DiedError, match="ended 3 times"):
        ask(kept(), b"always die")


@pytest.mark.parametrize("change", ["words", "version", "anchor"])
def test_a_process_of_another_node_is_replaced(kept, monkeypatch, change):
    [pid, *_] = ask(kept())
    other = kept(site="other") if change == "words" else kept()
    if change == "version":
        monkeypatch.setattr(kept_process, "version", lambda name: "0.0.1")
    if change == "anchor":
        other = kept(anchor=(os.getppid(), started(os.getppid())))
    again = ask(other)
    assert again[0] != pid
    assert again[1] == 1


def test_it_ends_after_a_time_without_messages(kept):
    [pid, *_] = ask(kept(keep=0.1))
    assert gone(pid, holder(kept().folder).get(pid))


def test_it_ends_by_a_signal(kept, tmp_path):
    [pid, *_] = ask(kept())
    start = started(pid)
    os.kill(pid, signal.SIGTERM)
    assert gone(pid, start)
    assert not (tmp_path / "process" / frames.SOCKET).exists()


def test_it_ends_with_its_node_in_the_middle_of_work_too(kept):
    import subprocess

    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as node:
        process = kept(anchor=(node.pid, started(node.pid)))
        [pid, *_] = ask(process)
        start = started(pid)

        def sleep():
            with suppress(DeploymentError):
                ask(process, b"sleep")

        threading.Thread(target=sleep, daemon=True).start()
        node.kill()
        node.wait()
        assert gone(pid, start)


def test_two_messages_at_once_start_one_process(kept):
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(ask(kept()))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({pid for pid, *_ in answers}) == 1
    assert sorted(count for _, count, _ in answers) == [1, 2, 3]


@pytest.fixture
def short_folder():
    """A folder with a short path: that of tmp_path may be too long for a socket."""
    with tempfile.TemporaryDirectory(prefix="pf") as folder:
        yield Path(folder)


def test_a_state_dir_with_a_long_path_has_its_socket_elsewhere(tmp_path, short_folder, monkeypatch):
    long = tmp_path / ("long" * 30)
    monkeypatch.setattr(frames.tempfile, "gettempdir", lambda: str(short_folder))
    folder = frames.folder_for(long)
    assert len(os.fsencode(folder / frames.SOCKET)) <= frames.LONGEST_ADDRESS
    assert folder.parent.parent == short_folder
    assert all(stat.S_IMODE(one.stat().st_mode) == 0o700 for one in (folder, folder.parent))
    assert frames.folder_for(long) == folder != frames.folder_for(tmp_path / ("other" * 30))


def test_a_link_in_the_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "process").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DeploymentError, match="not a folder of this user"):
        frames.folder_for(tmp_path)


def test_where_no_process_can_be_started_the_reason_is_told(kept, monkeypatch):
    monkeypatch.setattr(kept_process.sys, "executable", "/nowhere/python")
    with pytest.raises(NoProcessError, match="cannot be started: No such file"):
        ask(kept())


def test_a_process_that_ends_at_its_start_is_not_waited_for(kept):
    broken = KeptProcess(kept().folder, {}, 60.0, kept().anchor, ("-c", "raise SystemExit(5)"))
    with pytest.raises(NoProcessError, match="ended with code 5"):
        ask(broken)


@pytest.mark.parametrize(
    ("words", "seconds"),
    [
        ({}, 600.0),
        ({"keep-process-seconds": 0}, 0.0),
        ({"keep-process-seconds": 5}, 5.0),
        ({"keep-process-seconds": "ten"}, 0.0),
        ({"keep-process-seconds": True}, 0.0),
        ({"state-dir": 3}, 0.0),
    ],
)
def test_how_long_a_process_is_kept(words, seconds):
    assert keep_seconds({"state-dir": "/somewhere", **words}) == seconds


def test_frames_have_limits():
    mine, other = socket.socketpair()
    with mine, other:
        frames.send(mine, b"four")
        with pytest.raises(DeploymentError, match="a frame of 4 bytes came; 3 are the most"):
            frames.receive(other, 3)
    mine, other = socket.socketpair()
    with mine, other:
        frames.send(mine, b"[1]")
        frames.send(mine, b"{" * 5000)
        for why in ("is a JSON list", "not JSON"):
            with pytest.raises(DeploymentError, match=why):
                frames.receive_words(other)
        mine.sendall(frames.LENGTH.pack(10) + b"cut")
        mine.close()
        with pytest.raises(frames.ClosedError):
            frames.receive(other, 100)


def test_who_is_another_user_may_not_ask(tmp_path, monkeypatch):
    process = site_process.SiteProcess(tmp_path, {"anchor": [os.getpid(), started(os.getpid())]}, 60.0)
    mine, other = socket.socketpair()
    assert frames.is_from_me(other)
    monkeypatch.setattr(frames.os, "getuid", lambda: os.geteuid() + 1)
    assert not frames.is_from_me(other)
    process._take(other)
    with mine, pytest.raises(frames.ClosedError):
        frames.receive_words(mine)
