"""Texts in tables: a data set's rows as samples, for all formats of files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from promptfed.errors import DataError
from promptfed.examples.base import Sample, TextItem
from promptfed.tasks.sources.base import Source
from promptfed.tasks.sources.class_names import name_classes, read_class_table


@dataclass(frozen=True)
class Columns:
    """Names of the columns. ``domain`` says who or where a text comes from (language, author, site); "" for none."""

    text: str = "text"
    label: str = "label"
    domain: str = ""


Row = Mapping[str, str | None]


def text_source(
    name: str, parts: Mapping[str, Iterable[tuple[str, Row]]], columns: Columns, folder: Path | None = None
) -> Source:
    """Return the samples of tables as a source. Classes are sorted.

    Args:
        name: The source's name.
        parts: Split (train, val, test or "") -> (position of the row, row).
        columns: The columns.
        folder: Its ``classes.csv`` may rename labels.

    Raises:
        DataError: A column or a value is missing; the message names the row.
    """
    required = {"text_column": columns.text, "label_column": columns.label}
    rows = complete_rows(parts, {**required, "domain_column": columns.domain} if columns.domain else required)
    labels = sorted({str(row[columns.label]).strip() for _, _, row in rows})
    table = read_class_table(folder)
    naming = name_classes(labels, table, "labels", spoken=str)
    samples = [
        Sample(
            TextItem(str(row[columns.text]).strip(), place),
            naming.number[str(row[columns.label]).strip()],
            str(row[columns.domain]).strip() if columns.domain else "",
            split,
        )
        for split, place, row in rows
    ]
    return Source(name, naming.classes, tuple(samples), notes=naming.notes, descriptions=table.descriptions(labels))


def table_folder(path: str) -> Path:
    """Return the folder of a ``classes.csv`` for the table or folder of tables ``path``."""
    folder = Path(path).expanduser()
    return folder if folder.is_dir() else folder.parent


def complete_rows(
    parts: Mapping[str, Iterable[tuple[str, Row]]], needed: Mapping[str, str]
) -> list[tuple[str, str, Row]]:
    """Return (split, position of the row, row) of every row.

    Args:
        parts: Split -> (position, row).
        needed: Task option -> the column that it names.

    Raises:
        DataError: A column or a value is missing; the message names the row.
    """
    rows = [(split, place, row) for split, rows_of_split in parts.items() for place, row in rows_of_split]
    for _, place, row in rows:
        for column in needed.values():
            if column not in row:
                column_names = ", ".join(str(key) for key in row)
                options = [f"task.{option}" for option in needed]
                raise DataError(
                    f"{place} has no column '{column}'; it has {column_names} (--set {', '.join(options[:-1])} and "
                    f"{options[-1]} name them)"
                )
            if row[column] is None or not str(row[column]).strip():
                raise DataError(f"{place}: column '{column}' is empty")
    return rows
