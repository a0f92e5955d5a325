"""``hf:NAME[:SPLIT]`` for texts: data sets of the ``datasets`` library, from the hub or from a local folder."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from promptfed.errors import ConfigError, DataError
from promptfed.tasks.sources.base import Source
from promptfed.tasks.sources.hugging_face import SPLITS, load_tables, names_folder, split_name
from promptfed.tasks.sources.jsonl import as_text
from promptfed.tasks.sources.tables import Columns, Row, text_source


def source(name: str, columns: Columns) -> Source:
    """Return the splits train, validation and test of ``name``, or one named split (then without a test split).

    Rows without a label (None, or -1 in a column of class labels), as hidden test sets have them, are left out.

    Raises:
        DataError: It cannot be loaded or lacks a column.
        ConfigError: There is no such split.
    """
    parts_of = parts(name, columns.label)
    return text_source(f"hf:{name}", parts_of, columns, names_folder(split_name(name)[0], None))


def parts(name: str, label: str = "") -> dict[str, Iterator[tuple[str, Row]]]:
    """Return split -> its rows, class labels as their names; rows without a ``label`` are left out."""
    path, only = split_name(name)
    tables = load_tables(path)
    if only and only not in tables:
        raise ConfigError(f"hf:{path} has no split '{only}': it has {', '.join(tables)}")
    selection = {only: tables[only]} if only else {s: t for s, t in tables.items() if s in SPLITS} or tables
    rows_by_split = {split: rows(f"hf:{path}:{split}", table, label) for split, table in selection.items()}
    if only or len(rows_by_split) == 1:
        return {"": next(iter(rows_by_split.values()))}
    ours: dict[str, Iterator[tuple[str, Row]]] = {}
    for split, items in rows_by_split.items():
        use = SPLITS.get(split, "")
        if use in ours:
            raise DataError(
                f"hf:{path} has two splits for {use or 'one use'} ({', '.join(rows_by_split)}): name one of them"
            )
        ours[use] = items
    return ours


def rows(place: str, table: Any, label: str) -> Iterator[tuple[str, Row]]:
    """Yield (position, row) of every row of ``table`` that has a ``label``. Columns of media are left out."""
    import datasets

    readable = (datasets.Value, datasets.ClassLabel)
    columns = [column for column, kind in table.features.items() if isinstance(kind, readable)]
    for number, row in enumerate(table.select_columns(columns)):
        names = {c: _text(table.features[c], row[c]) for c in columns}
        if label not in names or names[label] is not None:
            yield f"{place}[{number}]", names


def _text(kind: Any, value: Any) -> str | None:
    names = getattr(kind, "names", None)
    if names is None:
        return as_text(value)
    return str(names[value]) if value is not None and value >= 0 else None
