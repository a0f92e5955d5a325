"""Class names of a source: from folders or labels, from a ``classes.csv`` beside the data; checks for clashes."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from promptfed.errors import ConfigError, DataError, FormatError
from promptfed.printable import printable
from promptfed.readers.csv_table import read_table
from promptfed.readers.text import filled_lines

FILE = "classes.csv"
KEY_COLUMNS = ("folder", "label")
LARGEST_TABLE = 20_000_000
"""Bytes."""
SHOWN_LIMIT = 80


@dataclass(frozen=True)
class ClassTable:
    """Content of a ``classes.csv``: folder or label -> name, and -> description where there is one."""

    path: Path | None = None
    names: Mapping[str, str] = field(default_factory=dict)
    sentences: Mapping[str, str] = field(default_factory=dict)

    def in_order(self, labels: Sequence[str]) -> tuple[str, ...]:
        """Return the names of numbered ``labels``; the table may call them by their numbers, too."""
        return tuple(
            self.names[label] if label in self.names else self.names.get(str(i)) or spoken(label)
            for i, label in enumerate(labels)
        )

    def descriptions(self, labels: Iterable[str]) -> dict[str, str]:
        """Return class name -> description, of the ``labels`` that have one."""
        return {self.names[label]: self.sentences[label] for label in labels if label in self.sentences}

    def notes(self, labels: Sequence[str], *, numbered: bool = True) -> tuple[str, ...]:
        """Return notes on which of ``labels`` the table renames, and which it does not know.

        ``numbered`` as in ``in_order``, where it may call them by their numbers.

        Raises:
            DataError: It knows none.
        """
        if self.path is None:
            return ()
        numbers = {str(i) for i in range(len(labels))} if numbered else set()
        unknown = [
            label
            for i, label in enumerate(labels)
            if label not in self.names and not (numbered and str(i) in self.names)
        ]
        if not (set(labels) | numbers) & set(self.names):
            raise DataError(
                f"{printable(self.path)} names none of the classes: it has {_listed(self.names)}, "
                f"the data have {_listed(labels)}"
            )
        lines = [f"class names come from {printable(self.path)}"]
        if unknown:
            lines.append(f"{printable(self.path)} has no row for {_listed(unknown)}: own names are kept")
        return tuple(lines)


@dataclass(frozen=True)
class Naming:
    """Classes of labels, in alphabetical order; several labels may be one class."""

    classes: tuple[str, ...]
    number: Mapping[str, int]
    notes: tuple[str, ...] = ()


def spoken(label: str) -> str:
    """Return a folder's or label's name as a person would write it: ``"sea__lion "`` -> ``"sea lion"``."""
    return " ".join(label.replace("_", " ").split())


def name_classes(labels: Iterable[str], table: ClassTable, kind: str, spoken: Callable[[str], str] = spoken) -> Naming:
    """Assign numbers to the classes of ``labels``, which are called as the table says, else ``spoken``.

    Labels with one name are one class; a note says so.

    Args:
        labels: The labels.
        table: Names from ``classes.csv``.
        kind: How a note calls the labels ("folders").
        spoken: Makes a name of a label.

    Raises:
        DataError: A label has an empty name, or the table names none of them.
    """
    ordered = sorted(set(labels))
    by_name: dict[str, list[str]] = {}
    for label in ordered:
        name = table.names.get(label) or spoken(label)
        if not is_visible(name):
            raise DataError(f"of the {kind} one, {label!a}, has no name to show: rename it, or name it in {FILE}")
        by_name.setdefault(name, []).append(label)
    classes = tuple(sorted(by_name))
    duplicates = tuple(
        f"{kind} {', '.join(repr(printable(label)) for label in group)} are one class, '{printable(name)}'"
        for name, group in by_name.items()
        if len(group) > 1
    )
    number = {label: classes.index(name) for name, group in by_name.items() for label in group}
    return Naming(classes, number, (*table.notes(ordered, numbered=False), *duplicates))


def read_class_table(folder: Path | None) -> ClassTable:
    """Read ``classes.csv`` in ``folder``; without one, an empty table.

    Raises:
        DataError: A line is wrong; the message names it.
    """
    if folder is None:
        return ClassTable()
    path = folder / FILE
    try:
        names_there = os.listdir(folder)
    except OSError:  # the reader of the data reports it
        return ClassTable()
    if FILE not in names_there:
        if lookalikes := sorted(name for name in names_there if name.lower() == FILE):
            raise DataError(
                f"{printable(folder / lookalikes[0])} is not read under this name: call it {FILE}, or remove it"
            )
        return ClassTable()
    rows = list(_rows(path))
    names: dict[str, str] = {}
    sentences: dict[str, str] = {}
    for line, row in rows:
        keys = [row[column] for column in KEY_COLUMNS if row.get(column)]
        if len(set(keys)) > 1:
            raise DataError(f"{printable(path)} line {line} names a folder and a label: give one of them")
        key = next(iter(keys), "")
        if not key or not row["name"]:
            raise DataError(f"{printable(path)} line {line} lacks its {'name' if key else ' or '.join(KEY_COLUMNS)}")
        if names.setdefault(key, row["name"]) != row["name"]:
            raise DataError(
                f"{printable(path)} line {line} calls '{printable(key)}' '{printable(row['name'])}', "
                f"and an earlier line '{printable(names[key])}': keep one"
            )
        sentence = row.get("description")
        if sentence and sentences.setdefault(key, sentence) != sentence:
            raise DataError(f"{printable(path)} line {line} describes '{printable(key)}' anew: keep one description")
    return ClassTable(path, names, sentences)


def _rows(path: Path, *, keys_needed: bool = True) -> list[tuple[int, dict[str, str]]]:
    try:
        columns, rows = read_table(path, LARGEST_TABLE)
    except (OSError, FormatError) as error:
        raise DataError(f"cannot read {printable(path)}: {getattr(error, 'strerror', None) or error}") from error
    if "name" not in columns or (keys_needed and not set(KEY_COLUMNS) & set(columns)):
        raise DataError(
            f"{printable(path)} has columns {_listed(columns)}: its first line must be folder,name or "
            f"label,name, with a third column description if you like{'' if keys_needed else ', or name alone'}"
        )
    return rows


def check_names(names: Sequence[str], what: str, data: str) -> None:
    """Check that names can be shown and told apart.

    Names clash if they differ in case, blanks, hidden characters or their Unicode form only, or not at all.

    Args:
        names: The names.
        what: "class", "domain" or "client".
        data: The data set's name, for messages.

    Raises:
        DataError: A name cannot be shown, or two clash.
    """
    earlier_names: dict[str, str] = {}
    of_class = what == "class"
    for name in names:
        text = printable(name, SHOWN_LIMIT)
        if any(0xD800 <= ord(letter) <= 0xDFFF for letter in name):
            raise DataError(f"{what} '{text}' of data '{data}' is not UTF-8: rename its folder")
        if not is_visible(name):
            table = f", or name it in {FILE}" if of_class else ""
            raise DataError(f"a {what} of data '{data}', {name!a}, has no name to show: rename it{table}")
        if any(unicodedata.category(letter) in ("Cc", "Zl", "Zp") for letter in name):
            table = f", or use {FILE}" if of_class else ""
            raise DataError(f"{what} '{text}' of data '{data}' holds control characters: rename it{table}")
        if (key := folded(name)) in earlier_names:
            earlier = earlier_names[key]
            how = "are the same" if earlier == name else "differ in case, blanks or hidden characters only"
            pair = [printable(earlier, SHOWN_LIMIT), text]
            if earlier != name and unicodedata.normalize("NFC", earlier) == unicodedata.normalize("NFC", name):
                how = "look the same, and differ in how Unicode writes them"
                pair = [ascii(variant)[1:-1][:SHOWN_LIMIT] for variant in (earlier, name)]
            table = f", or tell them apart (or make them one) in {FILE}" if of_class else ""
            raise DataError(f"{what} names '{pair[0]}' and '{pair[1]}' of data '{data}' {how}: rename one{table}")
        earlier_names[key] = name


def is_visible(name: str) -> bool:
    """Return whether ``name`` has a character that is no blank and not hidden."""
    return any(not letter.isspace() and unicodedata.category(letter) != "Cf" for letter in name)


def folded(name: str) -> str:
    """Return a key that is equal for names that differ in case, blanks, underscores or hidden characters only."""
    plain = unicodedata.normalize("NFKC", name.replace("_", " "))
    return "".join(c for c in plain.casefold() if not c.isspace() and unicodedata.category(c) != "Cf")


def parse_class_list(text: str) -> tuple[str, ...]:
    """Parse ``"cat,dog"``, or ``"@file"``: one name a line, or a CSV file with a column ``name``.

    Raises:
        ConfigError: The file cannot be read or holds nothing, or names cannot be told apart.
    """
    names = _parsed(text)
    earlier_names: dict[str, str] = {}
    for name in names:
        if is_visible(name) and (earlier := earlier_names.setdefault(folded(name), name)) != name:
            pair = f"'{printable(earlier, SHOWN_LIMIT)}' and '{printable(name, SHOWN_LIMIT)}'"
            raise ConfigError(f"--classes: {pair} differ in case, blanks or hidden characters only: keep one")
    return names


def _parsed(text: str) -> tuple[str, ...]:
    if not text.startswith("@"):
        return tuple(name.strip() for name in text.split(","))
    path = Path(text[1:]).expanduser()
    if not os.path.lexists(path):
        raise ConfigError(f"--classes {printable(text)}: there is no file '{printable(path)}'")
    if path.suffix.lower() == ".csv":
        try:
            names = [row["name"] for _, row in _rows(path, keys_needed=False)]
        except DataError as error:
            raise ConfigError(f"--classes {printable(text)}: {error}") from error
    else:
        try:
            names = [line.strip() for line in filled_lines(path, LARGEST_TABLE)]
        except (OSError, FormatError) as error:
            raise ConfigError(f"--classes {printable(text)}: {getattr(error, 'strerror', None) or error}") from error
    if not names:
        raise ConfigError(f"--classes {printable(text)}: the file holds no class names, one a line")
    return tuple(dict.fromkeys(names)) if path.suffix.lower() == ".csv" else tuple(names)


def plain_class_list(text: str) -> tuple[str, ...]:
    """Parse as ``parse_class_list`` does, where names are written with commas between them.

    Raises:
        ConfigError: A name holds a comma itself.
    """
    names = parse_class_list(text)
    if odd := [name for name in names if "," in name]:
        raise ConfigError(
            f"class '{printable(odd[0])}' holds a comma, which a list of agreed classes cannot: leave --classes out, "
            "and all classes that the sites have are agreed"
        )
    return names


def _listed(names: Iterable[str]) -> str:
    listed_names = list(names)
    listing = ", ".join(f"'{printable(name, SHOWN_LIMIT)}'" for name in listed_names[:3])
    return f"{listing} and {len(listed_names) - 3} more" if len(listed_names) > 3 else listing or "none"
