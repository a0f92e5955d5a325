"""Texts in tables: a data set's rows as samples, whatever file they come from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from promptfed.errors import DataError
from promptfed.tasks.sources.base import Sample, Source, TextItem


@dataclass(frozen=True)
class Columns:
    """Which column is what. ``domain`` says who or where a text comes from (language, author, site); "" for none."""

    text: str = "text"
    label: str = "label"
    domain: str = ""


Row = Mapping[str, str | None]


def text_source(name: str, parts: Mapping[str, Iterable[tuple[str, Row]]], columns: Columns) -> Source:
    """The samples of ``parts``: split (train, val, test or "") -> (where the row stands, row). Classes are sorted.

    Raises DataError naming the row if a column or a value is missing.
    """
    needed = {"text_column": columns.text, "label_column": columns.label}
    rows = complete_rows(parts, {**needed, "domain_column": columns.domain} if columns.domain else needed)
    classes = sorted({str(row[columns.label]).strip() for _, _, row in rows})
    number = {label: k for k, label in enumerate(classes)}
    samples = [
        Sample(
            TextItem(str(row[columns.text]).strip(), place),
            number[str(row[columns.label]).strip()],
            str(row[columns.domain]).strip() if columns.domain else "",
            split,
        )
        for split, place, row in rows
    ]
    return Source(name, tuple(classes), tuple(samples))


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
