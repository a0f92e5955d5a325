"""Counts every file operation below a folder, and does something at the chosen one."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PATH_EVENTS = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate", "shutil.rmtree")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


@dataclass
class Watch:
    """Operations seen below ``root``; ``act`` is called with (number from 1, what, path) before each of them."""

    root: str
    act: Callable[[int, str, str], None]
    seen: int = 0
    last: str = ""

    def note(self, what: str, path: object) -> None:
        """Count an operation on ``path`` if it is below the root."""
        try:
            name = os.fspath(path)  # type: ignore[call-overload]
        except TypeError:
            return
        text = os.path.abspath(os.fsdecode(name))
        if text == self.root or text.startswith(self.root + os.sep):
            self.seen += 1
            self.last = f"({what} {os.path.basename(text)})"
            self.act(self.seen, what, text)


_watch: Watch | None = None
_hooked = False


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    watch = _watch
    if watch is None:
        return
    if event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITING:
        watch.note("open", arguments[0])
    elif event in PATH_EVENTS:
        watch.note(event, arguments[0])


@contextmanager
def watched(root: Path, act: Callable[[int, str, str], None]) -> Iterator[Watch]:
    """Have ``act`` called before every operation below ``root``: open to write, write, fsync, mkdir, rename, remove,
    rmdir, truncate, rmtree. What it raises is what the operation raises."""
    global _watch, _hooked
    if not _hooked:
        sys.addaudithook(_hook)  # cannot be taken off again
        _hooked = True
    watch, write, fsync = Watch(os.path.abspath(root), act), os.write, os.fsync

    def of(handle: int) -> str:
        try:
            return os.readlink(f"/proc/self/fd/{handle}")
        except OSError:
            return ""

    def watched_write(handle: int, data: Any, /) -> int:
        if path := of(handle):
            watch.note("write", path)
        return write(handle, data)

    def watched_fsync(handle: Any, /) -> None:
        if path := of(handle if isinstance(handle, int) else handle.fileno()):
            watch.note("fsync", path)
        fsync(handle)

    _watch = watch
    os.write, os.fsync = watched_write, watched_fsync  # type: ignore[assignment]
    try:
        yield watch
    finally:
        _watch = None
        os.write, os.fsync = write, fsync


def count_operations(root: Path, work: Callable[[], object]) -> int:
    """Return how many operations below ``root`` the undisturbed ``work`` makes."""
    with watched(root, lambda *_: None) as watch:
        work()
    return watch.seen


@contextmanager
def failing(root: Path, number: int, code: int, *, stays: bool = False) -> Iterator[Watch]:
    """Have operation ``number`` below ``root`` fail with errno ``code``; with ``stays`` all later ones too."""

    def act(seen: int, what: str, path: str) -> None:
        if seen == number or (stays and seen > number):
            raise OSError(code, os.strerror(code), path)

    with watched(root, act) as watch:
        yield watch
