"""Processes that a process has started, directly or through others, and their end."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

SYSTEM = Path("/proc")


def descendants(pid: int) -> dict[int, str]:
    """Return the children of ``pid``, their children and so on, each with the time of its start."""
    table, found, parents = _table(), dict[int, str](), {pid}
    while parents:
        children = {child: start for child, (parent, start) in table.items() if parent in parents}
        parents = set(children) - set(found)
        found.update(children)
    return found


def started(pid: int) -> str | None:
    """Return the time of the start of ``pid``, as the system writes it; None if there is no such process.

    With it another process that has the number later can be told from this one.
    """
    if (SYSTEM / "self" / "stat").exists():
        row = _linux_row(SYSTEM / str(pid))
        return None if row is None else row[1]
    return _table().get(pid, (0, None))[1]


def kill_all(processes: dict[int, str], seconds: float = 10.0) -> None:
    """Kill the processes that ``descendants`` named and that are still there, and wait for their end.

    Args:
        processes: Process -> the time of its start; another process that has the number now is left alone.
        seconds: The limit of the wait.
    """
    end = time.monotonic() + seconds
    while remaining := _alive(processes):
        for pid in remaining:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > end:
            return
        time.sleep(0.02)


def _alive(processes: dict[int, str]) -> list[int]:
    table = _table() if processes else {}
    return [pid for pid, start in processes.items() if table.get(pid, (0, ""))[1] == start]


def _table() -> dict[int, tuple[int, str]]:
    """Return process -> its parent and the time of its start, for all processes that have not ended."""
    if (SYSTEM / "self" / "stat").exists():
        return _linux_table()
    words = ["ps", "-A", "-o", "pid=,ppid=,stat=,lstart="]
    lines = subprocess.run(words, capture_output=True, text=True, check=False).stdout.splitlines()
    rows = [line.split(maxsplit=3) for line in lines]
    return {int(row[0]): (int(row[1]), row[3]) for row in rows if len(row) == 4 and not row[2].startswith("Z")}


def _linux_table() -> dict[int, tuple[int, str]]:
    rows = {int(folder.name): _linux_row(folder) for folder in SYSTEM.iterdir() if folder.name.isdecimal()}
    return {pid: row for pid, row in rows.items() if row is not None}


def _linux_row(folder: Path) -> tuple[int, str] | None:
    """Return the parent of a process and the time of its start; None if it has ended, reaped or not."""
    try:
        fields = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()
        return None if fields[0] in ("Z", "X") else (int(fields[1]), fields[19])
    except (OSError, IndexError):
        return None
