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


def source(path: str, columns: Columns) -> Source:
    """Raises DataError if there is no such file, a line is no JSON object, or it has not the columns."""
    return text_source(path, parts(path), columns, table_folder(path))


def parts(path: str) -> dict[str, Iterator[tuple[str, Row]]]:
    """Split -> its rows. Raises DataError if there is no such file."""
    return {split: rows(file) for split, file in split_files(path, ".jsonl").items()}


def rows(file: Path) -> Iterator[tuple[str, Row]]:
    """(where it stands, row) of every line that is not blank. Numbers become the texts that they are written as."""
    try:
        for number, line in enumerate(text_lines(file), 1):
            if line.strip():
                place = f"{file.name}:{number}"
                yield place, _row(printable(place), line)
    except (OSError, FormatError) as error:
        raise DataError(f"cannot read {printable(file)}: {getattr(error, 'strerror', None) or error}") from error


def _row(place: str, line: str) -> Row:
    try:
        found = parse_json(line)
    except FormatError as error:
        raise DataError(f"{place} is not JSON ({error}): write one object a line") from error
    if not isinstance(found, dict):
        raise DataError(
            f'{place} is a JSON {type(found).__name__}, not an object such as {{"text": ..., "label": ...}}'
        )
    return {name: as_text(value) for name, value in found.items()}


def as_text(value: Any) -> str | None:
    """A cell as text: true and false as JSON writes them, lists and objects as JSON."""
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)
