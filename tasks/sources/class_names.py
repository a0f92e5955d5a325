"""Class names of a source: what a folder or label is called, a ``classes.csv`` beside the data, names that clash."""

from __future__ import annotations

import csv
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from promptfed.errors import ConfigError, DataError, FormatError
from promptfed.printable import printable
from promptfed.readers.text import filled_lines, text_lines

FILE = "classes.csv"
KEY_COLUMNS = ("folder", "label")
LARGEST_TABLE = 20_000_000
"""Bytes."""
SHOWN_LIMIT = 80


@dataclass(frozen=True)
class ClassTable:
    """What a ``classes.csv`` says: folder or label -> name, and -> description where there is one."""

    path: Path | None = None
    names: Mapping[str, str] = field(default_factory=dict)
    sentences: Mapping[str, str] = field(default_factory=dict)

    def in_order(self, labels: Sequence[str]) -> tuple[str, ...]:
        """The names of numbered ``labels``; the table may call them by their numbers, too."""
        return tuple(
            self.names[label] if label in self.names else self.names.get(str(i)) or spoken(label)
            for i, label in enumerate(labels)
        )

    def descriptions(self, labels: Iterable[str]) -> dict[str, str]:
        """Class name -> description, of those ``labels`` that have one."""
        return {self.names[label]: self.sentences[label] for label in labels if label in self.sentences}

    def notes(self, labels: Sequence[str]) -> tuple[str, ...]:
        """Which of ``labels`` the table renames, and which it does not know. Raises DataError if it knows none."""
        if self.path is None:
            return ()
        numbers = {str(i) for i in range(len(labels))}
        unknown = [label for i, label in enumerate(labels) if label not in self.names and str(i) not in self.names]
        if not (set(labels) | numbers) & set(self.names):
            raise DataError(
                f"{printable(self.path)} names none of the classes: it has {_listed(self.names)}, "
                f"the data have {_listed(labels)}"
            )
        found = [f"class names come from {printable(self.path)}"]
        if unknown:
            found.append(f"{printable(self.path)} has no row for {_listed(unknown)}: own names are kept")
        return tuple(found)


@dataclass(frozen=True)
class Naming:
    """The classes that labels stand for, in alphabetical order; several labels may be one class."""

    classes: tuple[str, ...]
    number: Mapping[str, int]
    notes: tuple[str, ...] = ()


def spoken(label: str) -> str:
    """A folder's or label's name as a person would write it: ``"sea__lion "`` -> ``"sea lion"``."""
    return " ".join(label.replace("_", " ").split())


def name_classes(labels: Iterable[str], table: ClassTable, kind: str, spoken: Callable[[str], str] = spoken) -> Naming:
    """Number the classes of ``labels``, which are called as the table says, else ``spoken``. Labels with one name are
    one class, which a note says; ``kind`` is what it calls them ("folders")."""
    ordered = sorted(set(labels))
    by_name: dict[str, list[str]] = {}
    for label in ordered:
        by_name.setdefault(table.names.get(label) or spoken(label), []).append(label)
    classes = tuple(sorted(by_name))
    merged = tuple(
        f"{kind} {', '.join(repr(printable(label)) for label in some)} are one class, '{printable(name)}'"
        for name, some in by_name.items()
        if len(some) > 1
    )
    number = {label: classes.index(name) for name, some in by_name.items() for label in some}
    return Naming(classes, number, (*table.notes(ordered), *merged))


def read_class_table(folder: Path | None) -> ClassTable:
    """``classes.csv`` in ``folder``, or an empty table. Raises DataError naming the line that is wrong."""
    if folder is None:
        return ClassTable()
    path = folder / FILE
    if not path.exists():
        return ClassTable()
    rows = list(_rows(path))
    names: dict[str, str] = {}
    sentences: dict[str, str] = {}
    for line, row in rows:
        key = next((row[column] for column in KEY_COLUMNS if row.get(column)), "")
        if not key or not row["name"]:
            raise DataError(f"{printable(path)} line {line} lacks its {'name' if key else ' or '.join(KEY_COLUMNS)}")
        if names.setdefault(key, row["name"]) != row["name"]:
            raise DataError(
                f"{printable(path)} line {line} calls '{printable(key)}' '{printable(row['name'])}', "
                f"and an earlier line '{printable(names[key])}': keep one"
            )
        if row.get("description"):
            sentences[key] = row["description"]
    return ClassTable(path, names, sentences)


def _rows(path: Path) -> Iterable[tuple[int, dict[str, str]]]:
    try:
        reader = csv.DictReader(text_lines(path, LARGEST_TABLE))
        columns = [(column or "").strip().lower() for column in reader.fieldnames or ()]
        if "name" not in columns or not set(KEY_COLUMNS) & set(columns):
            raise DataError(
                f"{printable(path)} has columns {_listed(columns)}: its first line must be folder,name or "
                "label,name, with a third column description if you like"
            )
        reader.fieldnames = columns
        for row in reader:
            yield reader.line_num, {k: (v or "").strip() for k, v in row.items() if isinstance(k, str)}
    except (OSError, FormatError, csv.Error) as error:
        raise DataError(f"cannot read {printable(path)}: {getattr(error, 'strerror', None) or error}") from error


def check_names(names: Sequence[str], what: str, data: str) -> None:
    """Raises DataError for a class or domain name (``what``) that cannot be shown, and for two that differ in case or
    blanks only, or not at all."""
    seen: dict[str, str] = {}
    for name in names:
        shown = printable(name, SHOWN_LIMIT)
        if any(0xD800 <= ord(letter) <= 0xDFFF for letter in name):
            raise DataError(f"{what} '{shown}' of data '{data}' is not UTF-8: rename its folder")
        if not name.strip():
            raise DataError(f"a {what} of data '{data}' has no name: rename '{shown}', or name it in {FILE}")
        if any(unicodedata.category(letter) in ("Cc", "Zl", "Zp") for letter in name):
            raise DataError(f"{what} '{shown}' of data '{data}' holds control characters: rename it, or use {FILE}")
        if (key := folded(name)) in seen:
            earlier = seen[key]
            how = "are the same" if earlier == name else "differ in case, blanks or hidden characters only"
            raise DataError(
                f"{what} names '{printable(earlier, SHOWN_LIMIT)}' and '{shown}' of data '{data}' {how}: "
                f"rename one, or tell them apart (or make them one) in {FILE}"
            )
        seen[key] = name


def folded(name: str) -> str:
    """Equal for names that differ in case, blanks, underscores or hidden characters only."""
    plain = unicodedata.normalize("NFKC", name.replace("_", " "))
    return "".join(c for c in plain.casefold() if not c.isspace() and unicodedata.category(c) != "Cf")


def parse_class_list(text: str) -> tuple[str, ...]:
    """``"cat,dog"``, or ``"@file"``: one name a line, or a CSV file with a column ``name``.

    Raises ConfigError for a file that cannot be read or holds nothing.
    """
    if not text.startswith("@"):
        return tuple(name.strip() for name in text.split(","))
    path = Path(text[1:]).expanduser()
    if not path.exists():
        raise ConfigError(f"--classes {printable(text)}: there is no file '{printable(path)}'")
    if path.suffix.lower() == ".csv":
        try:
            found = [row["name"] for _, row in _rows(path)]
        except DataError as error:
            raise ConfigError(f"--classes {printable(text)}: {error}") from error
    else:
        try:
            found = [line.strip() for line in filled_lines(path, LARGEST_TABLE)]
        except (OSError, FormatError) as error:
            raise ConfigError(f"--classes {printable(text)}: {getattr(error, 'strerror', None) or error}") from error
    if not found:
        raise ConfigError(f"--classes {printable(text)}: the file holds no class names, one a line")
    return tuple(dict.fromkeys(found)) if path.suffix.lower() == ".csv" else tuple(found)


def plain_class_list(text: str) -> tuple[str, ...]:
    """As ``parse_class_list``, for a place where names are written with commas between them. Raises ConfigError for a
    name that holds a comma itself."""
    names = parse_class_list(text)
    if odd := [name for name in names if "," in name]:
        raise ConfigError(
            f"class '{printable(odd[0])}' holds a comma, which a list of agreed classes cannot: leave --classes out, "
            "and all classes that the sites have are agreed"
        )
    return names


def _listed(names: Iterable[str]) -> str:
    some = list(names)
    shown = ", ".join(f"'{printable(name, SHOWN_LIMIT)}'" for name in some[:3])
    return f"{shown} and {len(some) - 3} more" if len(some) > 3 else shown or "none"
