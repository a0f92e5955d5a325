"""What tools are for: a file with a sentence for each, as JSON ({tool: sentence}) or as a table of two columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from promptfed.errors import DataError, FormatError
from promptfed.printable import printable
from promptfed.readers.json_reader import parse_json
from promptfed.tasks.sources import csv_texts, tsv
from promptfed.tasks.sources.base import Source
from promptfed.tasks.sources.unreadable import not_there, why_unreadable

COLUMNS = ("tool", "name", "label", "class"), ("description", "sentence", "about")
LISTED = 5


def read_descriptions(path: Path) -> dict[str, str]:
    """Return tool -> sentence.

    Raises:
        DataError: The file is missing, or is neither such an object nor such a table.
    """
    if not path.exists():
        raise DataError(f"file of descriptions {not_there(path)}")
    if path.suffix.lower() in (".csv", ".tsv"):
        return _table(path)
    try:
        values = parse_json(path.read_bytes())
    except (OSError, FormatError) as error:
        raise DataError(f"cannot read {printable(path)}: {why_unreadable(error)}") from error
    if not isinstance(values, dict):
        raise DataError(
            f'{printable(path)} is no object of tools and sentences: write {{"weather": "Tells the weather.", ...}}'
        )
    for name, text in values.items():
        if not isinstance(text, str) or not text.strip():
            fault = "is empty" if isinstance(text, str) or text is None else f"is {printable(repr(text), 60)}"
            raise DataError(f"{printable(path)}: the description of tool '{printable(name, 60)}' {fault}: write a text")
    return {str(name).strip(): " ".join(text.split()) for name, text in values.items()}


def _table(path: Path) -> dict[str, str]:
    rows = csv_texts.rows(path) if path.suffix.lower() == ".csv" else tsv.rows(path)
    descriptions = {}
    for place, row in rows:
        names = {str(name).strip().lower(): (value or "").strip() for name, value in row.items()}
        name, sentence = (next((names[column] for column in some if column in names), "") for some in COLUMNS)
        if not name or not sentence:
            raise DataError(f"{printable(place)} lacks a tool or its description: the columns are tool and description")
        if name in descriptions:
            raise DataError(f"{printable(place)} describes tool '{printable(name, 60)}' a second time: keep one")
        descriptions[name] = sentence
    return descriptions


def described(source: Source, descriptions: Mapping[str, str]) -> Source:
    """Return ``source`` with a description for each of its tools, those of ``descriptions`` before its own.

    Two tools with one sentence are told apart by their names. Tools that nobody asked for are left out with a note.

    Raises:
        DataError: A tool has no description.
    """
    known = {**source.descriptions, **descriptions}
    if absent := [name for name in source.classes if name not in known]:
        raise DataError(
            f"tool{'s' * (len(absent) > 1)} {_listed(absent)} of data '{printable(source.name)}' "
            f"{'have' if len(absent) > 1 else 'has'} no description: give a file with one for each tool ("
            "--set task.descriptions_file=tools.json), or a classes.csv beside the data"
        )
    sentences = [known[name].casefold() for name in source.classes]
    ours = {
        name: known[name] if sentences.count(known[name].casefold()) == 1 else f"{name}: {known[name]}"
        for name in source.classes
    }
    unused = sorted(set(known) - set(source.classes))
    note = f"{len(unused)} tools have a description and no request, and are left out: {_listed(unused)}"
    return replace(source, descriptions=ours, notes=(*source.notes, *([note] if unused else [])))


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(f"'{printable(name, 60)}'" for name in names[:LISTED]) + more
