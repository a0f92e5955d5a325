"""Copies of a loaded process in the place of Flower's program for a message."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import time

import pytest

if not sys.platform.startswith("linux"):
    pytest.skip("copies are made on Linux", allow_module_level=True)

from promptfed.deployment import frames, ready_process

SERVER = """
import os, sys
from pathlib import Path
from promptfed.deployment.ready_process import serve

def run():
    print(os.getppid(), sys.argv, sys.stdin.read())
    print("an error", file=sys.stderr)
    if sys.argv[1:] == ["fail"]:
        sys.exit(3)
    if sys.argv[1:] == ["raise"]:
        raise ValueError("wrong")

serve(Path(sys.argv[1]), os.getppid(), run)
"""


@pytest.fixture
def program(tmp_path):
    """The program of a site, in the place of which stands one that says that it is Flower's own."""
    folder = frames.folder_for(tmp_path)
    own = tmp_path / "own.py"
    own.write_text("import sys; print('own', sys.argv[1:])")
    return ready_process.write_program(folder, str(own)) / ready_process.NAME


@pytest.fixture
def server(tmp_path, program):
    process = subprocess.Popen([sys.executable, "-P", "-c", SERVER, str(tmp_path / "process")])
    end = time.monotonic() + 60
    while not (tmp_path / "process" / ready_process.SOCKET).exists():
        assert time.monotonic() < end
        time.sleep(0.02)
    yield process
    process.kill()
    process.wait()


def call(program, *words, given=""):
    return subprocess.run([program, *words], input=given, capture_output=True, text=True, check=False, timeout=60)


def test_a_copy_has_the_command_and_the_streams_of_the_program(program, server):
    done = call(program, "--token", "a b", "", given="some text")
    assert done.stdout == f"{server.pid} ['flwr-clientapp', '--token', 'a b', ''] some text\n"
    assert (done.stderr, done.returncode) == ("an error\n", 0)


def test_a_copy_hands_its_exit_code_back(program, server):
    assert call(program, "fail").returncode == 3
    failed = call(program, "raise")
    assert failed.returncode == 1
    assert failed.stderr.endswith("ValueError: wrong\n")
    assert call(program, "again").returncode == 0


def test_without_the_process_the_program_is_flowers_own(program, server):
    server.kill()
    server.wait()
    assert call(program, "--token", "x").stdout == "own ['--token', 'x']\n"


def test_program_and_socket_are_for_this_user_alone(program, server, tmp_path):
    assert stat.S_IMODE(program.stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "process" / ready_process.SOCKET).stat().st_mode) == 0o600


def test_it_ends_with_its_node(tmp_path, program):
    code = f"import subprocess, sys; subprocess.Popen([sys.executable, '-P', '-c', {SERVER!r}, sys.argv[1]])"
    code += "; import time; time.sleep(60)"
    node = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "process")])
    address = tmp_path / "process" / ready_process.SOCKET
    end = time.monotonic() + 60
    while not address.exists():
        assert time.monotonic() < end
        time.sleep(0.02)
    node.kill()
    node.wait()
    while address.exists():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.slow
def test_the_process_that_is_copied_has_one_thread_and_no_torch():
    code = (
        "import os, sys; from flwr.supernode.cli import flwr_clientapp; import promptfed.deployment.client;"
        "print(len(os.listdir('/proc/self/task')), 'torch' in sys.modules)"
    )
    pytest.importorskip("flwr")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    said = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert said.stdout == "1 False\n"
