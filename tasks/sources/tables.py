"""Texts in tables: a data set's rows as samples, whatever file they come from."""

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
    """Which column is what. ``domain`` says who or where a text comes from (language, author, site); "" for none."""

    text: str = "text"
    label: str = "label"
    domain: str = ""


Row = Mapping[str, str | None]


def text_source(
    name: str, parts: Mapping[str, Iterable[tuple[str, Row]]], columns: Columns, folder: Path | None = None
) -> Source:
    """The samples of ``parts``: split (train, val, test or "") -> (where the row stands, row). Classes are sorted; a
    ``classes.csv`` in ``folder`` may name labels anew.

    Raises DataError naming the row if a column or a value is missing.
    """
    needed = {"text_column": columns.text, "label_column": columns.label}
    rows = complete_rows(parts, {**needed, "domain_column": columns.domain} if columns.domain else needed)
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
    """Where a ``classes.csv`` for the table or folder of tables ``path`` is."""
    place = Path(path).expanduser()
    return place if place.is_dir() else place.parent


def complete_rows(
    parts: Mapping[str, Iterable[tuple[str, Row]]], needed: Mapping[str, str]
) -> list[tuple[str, str, Row]]:
    """(split, where the row stands, row) of every row. ``needed``: task option -> the column that it names.

    Raises DataError naming the row if a column or a value is missing.
    """
    rows = [(split, place, row) for split, found in parts.items() for place, row in found]
    for _, place, row in rows:
        for column in needed.values():
            if column not in row:
                known = ", ".join(str(key) for key in row)
                options = [f"task.{option}" for option in needed]
                raise DataError(
                    f"{place} has no column '{column}'; it has {known} (--set {', '.join(options[:-1])} and "
                    f"{options[-1]} name them)"
                )
            if row[column] is None or not str(row[column]).strip():
                raise DataError(f"{place}: column '{column}' is empty")
    return rows
