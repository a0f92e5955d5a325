"""Rows of CSV files as users keep them: by column, and none with more values than the first line has names."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from pathlib import Path

from promptfed.errors import FormatError
from promptfed.readers.files import shown
from promptfed.readers.text import text_lines

SHOWN_LIMIT = 200
"""Characters of a first line that a message shows."""


def read_table(path: Path, limit: int) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """Return the columns of ``path``, and each of its rows: (the line that it ends on, column -> value).

    Names of columns are in lower case; blanks around names and values are removed. Empty lines are left out, and a
    value that a short row lacks is empty.

    Args:
        path: a regular file.
        limit: bytes that are read at most.

    Raises:
        FormatError: naming the line, if a column stands twice, a row has more values than there are columns, or a
            quote is not closed; and as ``text_lines`` does.
        OSError: the operating system cannot open or read it.
    """
    reader = csv.reader(_lines(path, limit), strict=True, skipinitialspace=True)
    columns: list[str] = []
    rows: list[tuple[int, dict[str, str]]] = []
    try:
        for values in reader:
            if not values:
                continue
            if not columns:
                columns = [value.strip().lower() for value in values]
                if twice := sorted({column for column in columns if columns.count(column) > 1}):
                    raise FormatError(f"'{shown(path)}' has column '{twice[0][:SHOWN_LIMIT]}' twice: keep one")
                continue
            if len(values) > len(columns):
                raise FormatError(
                    f"'{shown(path)}' line {reader.line_num} has {len(values)} values, and its first line names "
                    f"{len(columns)} columns: put a value that holds a comma in double quotes"
                )
            padded = [*values, *[""] * (len(columns) - len(values))]
            rows.append((reader.line_num, {c: value.strip() for c, value in zip(columns, padded, strict=True)}))
    except csv.Error as error:
        why = "a double quote is not closed" if "end of data" in str(error) else str(error)
        raise FormatError(f"'{shown(path)}' line {reader.line_num}: {why}") from error
    return columns, rows


def _lines(path: Path, limit: int) -> Iterator[str]:
    """Lines that end in LF, CRLF or CR."""
    for line in text_lines(path, limit):
        yield from re.split(r"(?<=\r)(?!\n|$)", line)
