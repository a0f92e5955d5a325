"""``csv:PATH``: texts in comma-separated tables, one file or a folder with train.csv, dev.csv and test.csv."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from promptfed.errors import DataError, FormatError
from promptfed.printable import printable
from promptfed.readers.text import text_lines
from promptfed.tasks.sources.base import Source
from promptfed.tasks.sources.tables import Columns, Row, table_folder, text_source
from promptfed.tasks.sources.tsv import split_files
from promptfed.tasks.sources.unreadable import why_unreadable


def source(path: str, columns: Columns) -> Source:
    """Return the texts of the file or folder ``path``.

    Raises:
        DataError: There is no such file, or it lacks a column.
    """
    return text_source(path, parts(path), columns, table_folder(path))


def parts(path: str) -> dict[str, Iterator[tuple[str, Row]]]:
    """Return split -> its rows.

    Raises:
        DataError: There is no such file.
    """
    return {split: rows(file) for split, file in split_files(path, ".csv").items()}


def rows(file: Path) -> Iterator[tuple[str, Row]]:
    """Yield (position, row) of every row. A value in double quotes may hold commas and line breaks."""
    try:
        table = csv.DictReader(text_lines(file), skipinitialspace=True)
        for row in table:
            position = f"{file.name}:{table.line_num}"
            if None in row:
                raise DataError(
                    f"{printable(position)} has more cells than the header: put a value that holds a comma in double "
                    "quotes"
                )
            yield position, row
    except (OSError, FormatError, csv.Error) as error:
        raise DataError(f"cannot read {printable(file)}: {why_unreadable(error)}") from error
