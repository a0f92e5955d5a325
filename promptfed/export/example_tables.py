"""Examples in a column of a CSV file: paths of images, texts, or questions."""

from __future__ import annotations

from pathlib import Path

from promptfed.errors import ConfigError, FormatError
from promptfed.printable import LONGEST, printable
from promptfed.readers.csv_table import read_table

SUFFIX = ".csv"
LARGEST_TABLE = 100_000_000
"""Bytes."""
COLUMNS = {
    "path": ("path", "image", "file", "filename"),
    "text": ("text", "sentence"),
    "question": ("question", "text"),
}
"""Kind of example -> the names that its column may have; the first one that there is counts."""


def is_table(name: str) -> bool:
    """Return whether ``name`` is a CSV file that exists."""
    if not name.lower().endswith(SUFFIX):
        return False
    try:
        return Path(name).is_file()
    except (OSError, ValueError):
        return False


def table_column(path: Path, kind: str) -> list[str]:
    """Return the values of the column with examples, row by row.

    Args:
        path: A CSV file.
        kind: "path", "text" or "question". Paths are relative to the folder of the CSV, or else to the current one.

    Raises:
        ConfigError: There is no such column, a row has no value in it, or the file cannot be read.
    """
    try:
        columns, rows = read_table(path, LARGEST_TABLE)
    except FormatError as error:
        raise ConfigError(f"cannot read the CSV: {error}") from error
    except OSError as error:
        raise ConfigError(f"cannot read '{printable(path)}': {error.strerror or error}") from error
    wanted = COLUMNS[kind]
    column = next((name for name in wanted if name in columns), None)
    if column is None:
        has = printable(", ".join(columns), LONGEST) or "none"
        raise ConfigError(
            f"'{printable(path)}' has no column '{wanted[0]}' (it has {has}): name it so in its first line"
        )
    for line, row in rows:
        if not row[column]:
            raise ConfigError(f"'{printable(path)}' line {line} has no {column}: fill it in, or remove the line")
    values = [row[column] for _, row in rows]
    return [_beside(path.parent, value) for value in values] if kind == "path" else values


def _beside(folder: Path, value: str) -> str:
    """Return the path ``value`` in ``folder``, unless it is only there from the current folder."""
    inside = folder / value
    try:
        return value if not inside.exists() and Path(value).exists() else str(inside)
    except (OSError, ValueError):
        return value
