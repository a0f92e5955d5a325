"""Who waits for a lock is told who holds it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from promptfed.files import locks
from promptfed.files.processes import describe_holder, is_running
from promptfed.stderr_log import warnings_on_stderr

HOLD = "import sys, time, filelock; l = filelock.FileLock(sys.argv[1]); l.acquire(); print('held', flush=True); {}"


def test_the_holder_of_a_lock_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(locks, "PATIENCE", 0.1)
    code = HOLD.format("time.sleep(1)")
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "lock")], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        if sys.platform == "linux":
            assert str(holder.pid) in describe_holder(tmp_path / "lock")
        with warnings_on_stderr(), locks.patient_lock(tmp_path / "lock", "the feature cache"):
            assert "waiting for the feature cache" in capsys.readouterr().err
    assert not is_running(holder.pid)


def test_a_free_lock_is_taken_in_silence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with locks.patient_lock(tmp_path / "lock", "x"):
        assert capsys.readouterr().err == ""
