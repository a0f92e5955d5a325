from __future__ import annotations

import os
import subprocess
import sys

import pytest

from promptfed.deployment.process_tree import descendants, kill_all

pytestmark = pytest.mark.skipif(os.name == "nt", reason="process groups and signals of POSIX")
SLEEP = "import time; print('ready', flush=True); time.sleep(60)"
PARENT = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {SLEEP!r}], start_new_session=True)"


@pytest.fixture
def parent():
    """A process that has started another one, in a session of its own."""
    process = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    yield process
    kill_all(descendants(process.pid))
    process.kill()
    process.wait()


def test_what_has_a_session_of_its_own_is_found_and_killed(parent):
    started = descendants(parent.pid)
    assert len(started) == 1
    assert set(started) < set(descendants(os.getpid()))
    kill_all(started)
    assert parent.wait(10) == 0, "it was waiting for its child, which is gone"
    assert not descendants(parent.pid)


def test_another_process_with_the_number_is_left_alone(parent):
    started = descendants(parent.pid)
    kill_all(dict.fromkeys(started, "another time"))
    assert descendants(parent.pid) == started


def test_a_process_without_children(parent):
    [child] = descendants(parent.pid)
    assert descendants(child) == {}
