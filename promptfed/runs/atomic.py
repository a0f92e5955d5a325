"""Files that are there whole or not at all, also after a crash or a power cut."""

from __future__ import annotations

import os
from pathlib import Path

LEFTOVER_SUFFIX = ".partial"
"""Ending of the temporary files that a killed writer may leave behind."""


def write_bytes(path: Path, data: bytes) -> None:
    """Replace ``path`` by ``data`` in one step: a reader sees the old content or the new one, never a part."""
    draft = path.with_name(f".{path.name}.{os.getpid()}{LEFTOVER_SUFFIX}")
    write_synced(draft, data)
    draft.replace(path)
    sync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """``write_bytes`` for text, always UTF-8."""
    write_bytes(path, text.encode())


def write_synced(path: Path, data: bytes) -> None:
    """Write ``data`` and wait until the disk has it; not atomic by itself."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Wait until the disk has the folder's list of names: without it a rename may be lost in a power cut."""
    if os.name != "posix":  # elsewhere a folder cannot be opened, and renames need no help
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
