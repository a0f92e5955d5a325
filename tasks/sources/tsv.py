"""``tsv:PATH``: tab-separated texts, one file or a folder with train.tsv, dev.tsv and test.tsv."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from promptfed.errors import DataError, FormatError
from promptfed.printable import printable
from promptfed.readers.text import text_lines
from promptfed.tasks.sources.base import Source
from promptfed.tasks.sources.tables import Columns, Row, table_folder, text_source
from promptfed.tasks.sources.unreadable import not_there, why_unreadable

SPLITS = {"train": "train", "dev": "val", "val": "val", "validation": "val", "test": "test"}


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
    return {split: rows(file) for split, file in split_files(path, ".tsv").items()}


def split_files(path: str, suffix: str) -> dict[str, Path]:
    """Return split -> file, of a folder with a file for each split; a single file has no splits ("").

    Raises:
        DataError: There is none.
    """
    folder = Path(path).expanduser()
    if folder.exists() and not folder.is_dir():
        return {"": folder}
    if not folder.is_dir():
        raise DataError(
            f"{not_there(folder)}: give a {suffix} file, or a folder with train{suffix}, test{suffix} "
            "(--data-root DIR looks for it in DIR)"
        )
    files = {SPLITS[file.stem]: file for file in sorted(folder.glob(f"*{suffix}")) if file.stem in SPLITS}
    if not files:
        raise DataError(f"folder '{path}' holds none of {', '.join(f'{name}{suffix}' for name in SPLITS)}")
    return files


def rows(file: Path) -> Iterator[tuple[str, Row]]:
    """Yield (position, row) of every row. Quotes are plain characters: a text may begin with one."""
    try:
        table = csv.DictReader(text_lines(file), delimiter="\t", quoting=csv.QUOTE_NONE)
        for number, row in enumerate(table, 2):
            if None in row:
                raise DataError(f"{printable(file.name)}:{number} has more cells than the header")
            yield f"{file.name}:{number}", row
    except (OSError, FormatError, csv.Error) as error:
        raise DataError(f"cannot read {printable(file)}: {why_unreadable(error)}") from error
