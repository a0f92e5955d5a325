"""``jsonl:PATH``: one JSON object a line, one file or a folder with train.jsonl, dev.jsonl and test.jsonl."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from promptfed.errors import DataError, FormatError
from promptfed.printable import printable
from promptfed.readers.json_reader import parse_json
from promptfed.readers.text import text_lines
from promptfed.tasks.sources.base import Source
from promptfed.tasks.sources.tables import Columns, Row, table_folder, text_source
from promptfed.tasks.sources.tsv import split_files
from promptfed.tasks.sources.unreadable import why_unreadable


def source(path: str, columns: Columns) -> Source:
    """Return the texts of the file or folder ``path``.

    Raises:
        DataError: There is no such file, a line is no JSON object, or it lacks a column.
    """
    return text_source(path, parts(path), columns, table_folder(path))


def parts(path: str) -> dict[str, Iterator[tuple[str, Row]]]:
    """Return split -> its rows.

    Raises:
        DataError: There is no such file.
    """
    return {split: rows(file) for split, file in split_files(path, ".jsonl").items()}


def rows(file: Path) -> Iterator[tuple[str, Row]]:
    """Yield (position, row) of every line that is not blank. Numbers keep the text of the file."""
    try:
        for number, line in enumerate(text_lines(file), 1):
            if line.strip():
                place = f"{file.name}:{number}"
                yield place, _row(printable(place), line)
    except (OSError, FormatError) as error:
        raise DataError(f"cannot read {printable(file)}: {why_unreadable(error)}") from error


def _row(place: str, line: str) -> Row:
    try:
        content = parse_json(line)
    except FormatError as error:
        raise DataError(f"{place} is not JSON ({error}): write one object a line") from error
    if not isinstance(content, dict):
        raise DataError(
            f'{place} is a JSON {type(content).__name__}, not an object of names and values: {{"text": ..., ...}}'
        )
    return {name: as_text(value) for name, value in content.items()}


def as_text(value: Any) -> str | None:
    """Return a cell as text: true and false as JSON writes them, lists and objects as JSON."""
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)
