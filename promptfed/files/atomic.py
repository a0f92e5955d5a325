"""Files that are there whole or not at all, also after a crash or a power cut.

Every file that promptfed writes for a run goes through here. What the disk refuses is a ``DiskError``: one line that
names the file. The draft of a file has a name of its process's own, is created exclusively, and never follows a link.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from promptfed.errors import DiskError
from promptfed.files.processes import is_running

LEFTOVER_SUFFIX = ".partial"
"""Ending of the temporary files that a killed writer may leave behind."""
LONGEST_STEM = 150
"""Characters of a file's name that its draft's name repeats: file systems allow 255 bytes in all."""
READABLE, PRIVATE = 0o666, 0o600
"""Modes of new files, before the process's mask: as usual, and for the owner only."""


def write_bytes(path: Path, data: bytes, mode: int = READABLE) -> None:
    """Replace ``path`` by ``data`` in one step: a reader sees the old content or the new one, never a part.

    Raises DiskError if the disk refuses; then ``path`` is as it was, and nothing is left beside it.
    """
    draft = path.with_name(f".{path.name[:LONGEST_STEM]}.{os.getpid()}-{secrets.token_hex(4)}{LEFTOVER_SUFFIX}")
    with naming(path):
        try:
            write_synced(draft, data, mode)
            draft.replace(path)
        except BaseException:
            with suppress(OSError):
                draft.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """``write_bytes`` for text, always UTF-8."""
    write_bytes(path, text.encode())


def write_synced(path: Path, data: bytes, mode: int = READABLE) -> None:
    """Create ``path``, which must not exist, and wait until the disk has ``data`` in it; not atomic by itself."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
    _write(path, data, flags | getattr(os, "O_BINARY", 0), mode, sync=True)


def append_bytes(path: Path, data: bytes) -> None:
    """Add ``data`` at the end of ``path``, which is created if need be; a failed write leaves no part of it.

    Raises DiskError if the disk refuses.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    with naming(path):
        size = path.stat().st_size if path.exists() else 0
        try:
            _write(path, data, flags, READABLE, sync=False)
        except OSError:
            with suppress(OSError):
                os.truncate(path, size)
            raise


def sync_folder(folder: Path) -> None:
    """Wait until the disk has the folder's list of names: without it a rename may be lost in a power cut."""
    if os.name != "posix":  # elsewhere a folder cannot be opened, and renames need no help
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Turn any OSError inside into a DiskError that names ``path``."""
    try:
        yield
    except DiskError:
        raise
    except OSError as error:
        raise DiskError(error.errno, error.strerror or str(error), str(path)) from error


def remove_drafts(folder: Path) -> None:
    """Remove what killed writers left of files in ``folder``; drafts of processes that still run stay."""
    for path in folder.glob(f".*{LEFTOVER_SUFFIX}"):
        match = re.fullmatch(r"\..+\.(\d+)(-[0-9a-f]{8})?" + re.escape(LEFTOVER_SUFFIX), path.name)
        if match and (int(match[1]) == os.getpid() or not is_running(int(match[1]))):
            with naming(path):
                path.unlink(missing_ok=True)


def _write(path: Path, data: bytes, flags: int, mode: int, *, sync: bool) -> None:
    handle = os.open(path, flags, mode)
    try:
        remaining = memoryview(data)
        while remaining:
            remaining = remaining[os.write(handle, remaining) :]
        if sync:
            os.fsync(handle)
    finally:
        os.close(handle)
