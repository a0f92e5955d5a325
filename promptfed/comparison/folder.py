"""The folder of a comparison, which one process works in at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from promptfed.errors import RunError
from promptfed.files.processes import describe_holder


@contextmanager
def comparison_folder(given: Path | None) -> Iterator[Path]:
    """Make ``given``, or a fresh folder below ``runs``, and hold its lock until the block is left.

    Raises RunError if it cannot be made, or if another process works in it.
    """
    folder = given or Path("runs") / f"{datetime.now():%Y%m%d-%H%M%S}-comparison"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock")
        lock.acquire(timeout=0)
    except Timeout as error:
        holder = describe_holder(folder / ".lock")
        raise RunError(f"comparison '{folder}' is in use by {holder}; wait until it ends") from error
    except OSError as error:
        raise RunError(f"cannot write to '{folder}': {error.strerror or error}; choose another --out") from error
    try:
        yield folder
    finally:
        lock.release()
