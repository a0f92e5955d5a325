"""Bytes of regular files, read up to a limit."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO

from promptfed.errors import FormatError
from promptfed.printable import printable

MEGABYTE = 1_000_000
SHOWN_PATH = 300
"""Characters of a path that a message shows."""


def open_regular(path: Path) -> BinaryIO:
    """Open ``path`` for reading bytes.

    A pipe, a socket or a device is refused at once, where an ordinary ``open`` would wait for somebody to write.

    Raises:
        FormatError: it is not a regular file, or its name is none that the operating system takes.
        OSError: the operating system cannot open it.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    try:
        handle = os.open(path, flags | getattr(os, "O_NOCTTY", 0))
    except ValueError as error:  # a NUL character or half of a surrogate pair in the name
        raise FormatError(f"'{shown(path)}' is no name of a file ({error})") from error
    try:
        mode = os.fstat(handle).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(21, "Is a directory", str(path))
        if not stat.S_ISREG(mode):
            raise FormatError(
                f"'{shown(path)}' is {kind_of(mode)}, not a regular file: save its content as a file first"
            )
    except BaseException:
        os.close(handle)
        raise
    return os.fdopen(handle, "rb")  # from here on the file closes the handle: a Ctrl-C in between must not do it again


def read_bytes(path: Path, limit: int) -> bytes:
    """Return the content of the regular file ``path``.

    Raises:
        FormatError: it is not a regular file, or longer than ``limit`` bytes.
        OSError: the operating system cannot open or read it.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise FormatError(f"'{shown(path)}' has {size:,} bytes; at most {limit:,} are read here")
        content = file.read(limit + 1)
    if len(content) > limit:  # it grew, or says less than it holds, as files of /proc do
        raise FormatError(f"'{shown(path)}' has more than the {limit:,} bytes that are read here")
    return content


def shown(path: object) -> str:
    """Return ``path`` as a message shows it."""
    return printable(path, SHOWN_PATH)


def kind_of(mode: int) -> str:
    """Return what a file of ``mode`` (``os.stat_result.st_mode``) is, in words with an article."""
    for test, name in (
        (stat.S_ISREG, "a file"),
        (stat.S_ISDIR, "a folder"),
        (stat.S_ISLNK, "a link"),
        (stat.S_ISFIFO, "a pipe"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISCHR, "a device"),
        (stat.S_ISBLK, "a device"),
    ):
        if test(mode):
            return name
    return "something else"
