"""SQLite files that only their owner may read, from the start, and that say who holds a lock on them."""

from __future__ import annotations

import logging
import os
import sqlite3
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
log = logging.getLogger(__name__)
PATIENCE = 3.0
"""Seconds of waiting for a lock after which the log says who holds it."""
LONGEST_WAIT = 60.0
ENDINGS = ("", "-wal", "-shm", "-journal")


def connect(file: Path | str) -> sqlite3.Connection:
    """Open ``file`` (a path; ``""`` or ``:memory:``: a private one), made for its owner alone if it is new.

    SQLite gives the files that it puts beside it the mode of the file itself.

    Raises:
        OSError: It is a symbolic link.
    """
    if isinstance(file, Path):
        with suppress(FileExistsError):
            flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_NOFOLLOW", 0)
            os.close(os.open(file, flags, 0o600))
        for ending in ENDINGS:  # those of earlier versions were readable for all
            part = file.with_name(file.name + ending)
            with suppress(FileNotFoundError):
                if part.is_symlink():
                    raise OSError(f"'{part}' is a symbolic link")
                if part.stat().st_mode & 0o077:
                    part.chmod(0o600)
    return sqlite3.connect(file, timeout=PATIENCE, check_same_thread=False, isolation_level=None)


def patiently(action: Callable[[], T], file: Path | str | None) -> T:
    """Return ``action()``, retried for ``LONGEST_WAIT`` seconds while another process holds a lock on ``file``."""
    end, is_told = time.monotonic() + LONGEST_WAIT, False
    while True:
        try:
            return action()
        except sqlite3.OperationalError as error:
            is_locked = "locked" in str(error) or "busy" in str(error)
            if not is_locked or time.monotonic() > end:
                raise
            if not is_told:
                is_told = True
                log.warning("'%s' is locked by %s; waiting for at most %.0f s", file, holders(file), LONGEST_WAIT)


def holders(file: Path | str | None) -> str:
    """Return who holds locks on the SQLite ``file``, as far as the system tells: "process 123 (python, stopped)"."""
    inodes = set()
    for ending in ENDINGS:
        with suppress(OSError):
            inodes.add(os.stat(f"{file}{ending}").st_ino)
    processes = set()
    with suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/locks").read_text().splitlines():
            fields = line.replace("->", " ").split()
            if int(fields[5].split(":")[2]) in inodes and int(fields[4]) != os.getpid():
                processes.add(int(fields[4]))
    return " and ".join(map(_described, sorted(processes))) or "another process"


def _described(process: int) -> str:
    try:
        name, _, fields = Path(f"/proc/{process}/stat").read_text().partition("(")[2].rpartition(")")
    except OSError:
        return f"process {process}"
    state = ", stopped: kill -CONT continues it" if fields.split()[:1] in (["T"], ["t"]) else ""
    return f"process {process} ({name}{state})"
