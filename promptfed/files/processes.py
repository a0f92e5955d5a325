"""Other processes of this machine: whether one runs, and who holds a lock."""

from __future__ import annotations

import os
from pathlib import Path

from promptfed.printable import printable

PROC = Path("/proc")
LONGEST_COMMAND = 100


def is_running(process: int) -> bool:
    """Whether a process of that number runs on this machine."""
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # it is somebody else's
        return True
    return True


def describe_holder(lock: Path) -> str:
    """Return who holds the file ``lock`` in words, such as "process 4711 (promptfed train ...)"."""
    process = _holder(lock)
    if process is None:
        return "another process"
    command = _read(PROC / str(process) / "cmdline").replace("\0", " ").strip()
    state = _read(PROC / str(process) / "stat").rpartition(")")[2].split()[:1]
    return (
        f"process {process}"
        + (f" ({printable(command, LONGEST_COMMAND)})" if command else "")
        + (", which is stopped (kill -CONT lets it go on)" if state in (["T"], ["t"]) else "")
    )


def is_held(lock: Path) -> bool | None:
    """Return whether a process of this machine holds the file ``lock``; None where the system does not tell."""
    return _holder(lock) is not None if (PROC / "locks").exists() else None


def _holder(lock: Path) -> int | None:
    """Return the number of the process that holds ``lock``, where the system tells (Linux)."""
    try:
        inode = lock.stat().st_ino
    except OSError:
        return None
    for line in _read(PROC / "locks").splitlines():
        fields = line.split()
        # "1: FLOCK  ADVISORY  WRITE 4711 08:01:131072 0 EOF"; one that waits has "->" in the second place
        if "->" not in fields and len(fields) > 5 and fields[5].rpartition(":")[2] == str(inode):
            return int(fields[4]) if fields[4].isdigit() and int(fields[4]) > 0 else None
    return None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
