"""Why files of a user's data cannot be read: the part of the path that does not exist, or what a reader says."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from promptfed.errors import DataError, FormatError
from promptfed.printable import printable

LONGEST = 300


@contextmanager
def readable(data: str) -> Iterator[None]:
    """Raise DataError, which names ``data``, for what the operating system or a reader refuses inside the block."""
    try:
        yield
    except (OSError, FormatError) as error:
        raise DataError(f"cannot read '{printable(data)}': {why_unreadable(error)}") from error


def why_unreadable(error: Exception) -> str:
    """Return why a file cannot be read, in a part of a line.

    Of a path that does not exist its first missing part is named: a folder that is misspelt, not a file in it.
    """
    if not isinstance(error, OSError) or not isinstance(error.filename, str | Path):
        return printable(getattr(error, "strerror", None) or error, LONGEST)
    path = Path(error.filename)
    return not_there(path) if isinstance(error, FileNotFoundError) else printable(f"{error.strerror}: {path}", LONGEST)


def not_there(path: Path) -> str:
    """Return, in a part of a line, which part of ``path`` is the first that does not exist."""
    missing = path
    while not missing.parent.exists():
        missing = missing.parent
    needed = "" if missing == path else f"; needed is '{printable(path, LONGEST)}'"
    return f"'{printable(missing, LONGEST)}' does not exist{needed}"


def check_folder(folder: Path, fix: str = "give the folder of the data") -> None:
    """Raise DataError, which ends with ``fix``, unless there is such a folder."""
    if not folder.is_dir():
        why = f"'{printable(folder, LONGEST)}' is no folder" if folder.exists() else not_there(folder)
        raise DataError(f"{why}: {fix}")
