"""Locks between processes that say who holds them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from promptfed.files.processes import describe_holder
from promptfed.printable import printable

log = logging.getLogger(__name__)
PATIENCE = 3.0
"""Seconds of waiting in silence."""


@contextmanager
def patient_lock(path: Path, purpose: str) -> Iterator[None]:
    """Hold the file ``path`` for this process; whoever waits longer than PATIENCE is told who holds it.

    Args:
        path: The lock file; its folder exists.
        purpose: What is waited for, in words ("the feature cache").

    Raises:
        OSError: The lock file cannot be opened.
    """
    lock = FileLock(path)
    try:
        lock.acquire(timeout=PATIENCE)
    except Timeout:
        log.warning("waiting for %s: %s is held by %s", purpose, printable(path), describe_holder(path))
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
