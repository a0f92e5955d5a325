"""Paths as a program hands them over: a value of any type, of any length; and folders that are closed to others."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from promptfed.errors import ConfigError
from promptfed.printable import LONGEST, printable


def checked_path(value: Any, what: str) -> Path:
    """Return ``value`` as a path, whether or not there is anything.

    Args:
        value: What the user handed over.
        what: What messages call it: ``folder``.

    Raises:
        ConfigError: It is no path, or one that no file system takes.
    """
    try:
        text = os.fspath(value)
    except TypeError:
        text = None
    if not isinstance(text, str):
        raise ConfigError(f"{what} is {printable(repr(value), LONGEST)}: give a path, as text or a pathlib.Path")
    if not text:
        raise ConfigError(f"{what} is empty: give a path")
    try:
        os.lstat(text)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        pass
    except (OSError, ValueError) as error:  # too long, a NUL inside, a circle of links
        why = getattr(error, "strerror", None) or error
        raise ConfigError(f"{what} is '{printable(text, LONGEST)}', which is no path here: {why}") from error
    return Path(text)


def make_private_folder(folder: Path) -> None:
    """Make ``folder`` and what is missing above it, each closed to other users; one that is there stays as it is.

    Raises:
        OSError: It cannot be made.
    """
    for place in reversed((folder, *folder.parents)):
        if not place.is_dir():
            place.mkdir(mode=0o700, exist_ok=True)
