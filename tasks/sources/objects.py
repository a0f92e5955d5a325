"""Data that are objects of a user's program: lists, data sets of ``datasets`` and torch, and mappings of these.

They become the same ``Source`` that a folder or a table becomes, so splits, few-shot draws, checks and duplicates are
the same.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from promptfed.errors import ConfigError, DataError, unknown_name
from promptfed.examples.base import FileItem, ImageItem, Item, Sample, TextItem
from promptfed.examples.image_check import CheckedImages, file_stamp, grouped_notes, keep_readable, look_at
from promptfed.printable import LONGEST, printable
from promptfed.tasks.sources import checked
from promptfed.tasks.sources.base import Source
from promptfed.tasks.sources.hugging_face import RowItem, encoded_rows, image_and_label
from promptfed.tasks.sources.object_images import DatasetImage, ObjectImage, example_of, image_item, is_image, kind_of
from promptfed.tasks.sources.splits import split_of
from promptfed.tasks.sources.tables import Columns

Kind = Literal["images", "texts"]
PREFIX = "object:"
"""Prefix of an object's name where a config has the name of data, a model or an oracle."""
FORMS = "a list of (image or path or text, label), a datasets.Dataset, a torch Dataset, or {client name: such a thing}"


@dataclass(frozen=True)
class Table:
    """One object with examples: its client ("" for none), its split, and its place in messages."""

    examples: Any
    client: str
    split: str
    place: str


@dataclass(frozen=True)
class Row:
    """An example as read: its label is a number or a name."""

    item: Item
    label: Any
    table: Table


@dataclass(frozen=True)
class ObjectData:
    """A source made of objects; ``fingerprint`` is the SHA-256 of its classes, examples, labels, clients and splits."""

    source: Source = field(repr=False)
    fingerprint: str

    @property
    def name(self) -> str:
        """Return the config's name for it."""
        return self.source.name

    @property
    def parts(self) -> tuple[Any, ...]:
        """Return the source, and the torch data sets that its examples are read from."""
        sets = {id(d): d for s in self.source.samples if (d := getattr(s.item, "dataset", None)) is not None}
        return (self.source, *sets.values())


def read_objects(
    data: Any,
    kind: Kind,
    *,
    class_names: Sequence[str] | None = None,
    test: Any = None,
    columns: Columns | None = None,
    strict: bool = False,
) -> ObjectData:
    """Read a user's ``data`` as a source.

    Args:
        data: Pairs (example, label), a ``datasets.Dataset`` or ``DatasetDict``, a torch ``Dataset``, splits of such
            things by name ("train", "validation", "test"), or {client name: such a thing}: then each client holds its
            own.
        kind: What the task's examples are.
        class_names: The classes in the order of numbered labels; None: the data's own, or the labels where these are
            text.
        test: Examples for tests alone, in one of the same forms.
        columns: Columns of a ``datasets.Dataset`` with texts.
        strict: Refuse an image that cannot be decoded, instead of leaving it out.

    Raises:
        ConfigError: ``data`` is nothing of the above, or classes are not named.
        DataError: An example or a label does not fit.
    """
    tables = list(_tables(data, "", "", ""))
    by_client = any(table.client for table in tables)
    if test is not None:
        tables = [Table(t.examples, t.client, t.split or "train", t.place) for t in tables]
        tables += [Table(t.examples, "", "test", t.place) for t in _tables(test, "", "test", "test")]
    columns = columns or Columns()
    rows = [row for table in tables for row in _rows(table, kind, columns)]
    if not rows:
        raise DataError(f"data '{object_name(data)}' holds no examples: give {FORMS}")
    classes = _classes(rows, tables, kind, columns, class_names)
    number = {name: k for k, name in enumerate(classes)}
    samples = tuple(Sample(r.item, _label(r, number, classes), r.table.client, r.table.split) for r in rows)
    n_base = len(classes)
    if by_client:
        classes, samples, n_base = _held_first(classes, samples)
    name = PREFIX + object_name(data)
    looked = _readable(name, samples, strict)
    source = Source(
        name,
        classes,
        looked.samples,
        base_classes=n_base if by_client else None,
        skipped=looked.skipped,
        notes=looked.notes,
        content_ids=looked.content_ids,
        by_client=by_client,
    )
    return ObjectData(checked(source, strict=strict), _fingerprint(source))


# ------------------------------------------------------------------------------------------------------ structure


def _tables(data: Any, client: str, split: str, place: str) -> Iterator[Table]:
    """Yield the objects with examples in ``data``, by client and split."""
    place = place or object_name(data)
    if isinstance(data, Mapping):
        if not data:
            raise DataError(f"data '{place}' is an empty mapping: give {FORMS}")
        splits = {key: split_of(str(key)) for key in data}
        if all(splits.values()) and not split:
            for key, part in data.items():
                yield from _tables(part, client, splits[key], f"{place}[{key!r}]")
            return
        if client or split or _is_hugging_face(data):
            odd = next(key for key in data if not splits[key] or split)
            raise ConfigError(
                f"data '{place}' has the key {printable(repr(odd), LONGEST)}, which is no split: use train, "
                "validation and test"
            )
        if len({str(key).strip() for key in data}) < len(data):
            raise ConfigError(f"data '{place}' names a client twice, as a number and as text: give each its own name")
        for key, part in data.items():
            if not isinstance(key, str | int) or isinstance(key, bool) or not str(key).strip():
                raise ConfigError(f"data '{place}' names a client {printable(repr(key), LONGEST)}: give a name")
            yield from _tables(part, str(key), "", f"{place}[{key!r}]")
        return
    if isinstance(data, str | bytes | os.PathLike) or not hasattr(data, "__len__") or not hasattr(data, "__getitem__"):
        description = f"'{printable(data, LONGEST)}'" if isinstance(data, str | os.PathLike) else kind_of(data)
        raise ConfigError(f"data {description} cannot be read: give {FORMS}")
    if len(data) == 0:
        raise DataError(f"data '{place}' is empty: give {FORMS}")
    yield Table(data, client, split, place)


def _is_hugging_face(data: Any) -> bool:
    return "datasets" in sys.modules and type(data).__module__.partition(".")[0] == "datasets"


def plain_name(name: str) -> str:
    """Return ``name`` without special characters of paths and shells."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-")[:LONGEST] or "object"


def object_name(data: Any) -> str:
    """Return the config's name for ``data``: ``list``, ``clients``, or the name of a data set or its class."""
    if isinstance(data, Mapping):
        if not _is_hugging_face(data) and not all(split_of(str(key)) for key in data):
            return "clients"
        first = next(iter(data.values()), None)
        if first is None or isinstance(first, Mapping):
            return "splits"
        return _data_set_name(first) or type(data if _is_hugging_face(data) else first).__name__
    return _data_set_name(data) or type(data).__name__


def _data_set_name(data: Any) -> str:
    """Return the name that a ``datasets.Dataset`` has from its builder; empty for others."""
    if _is_hugging_face(data) and (name := getattr(getattr(data, "info", None), "dataset_name", None)):
        return plain_name(name)
    return ""


# ------------------------------------------------------------------------------------------------------- examples


def _rows(table: Table, kind: Kind, columns: Columns) -> Iterator[Row]:
    if _is_hugging_face(table.examples):
        yield from _hugging_face_rows(table, kind, columns)
        return
    lazy = isinstance(table.examples, torch.utils.data.Dataset)
    for i in range(len(table.examples)):
        place = f"{table.place}[{i}]"
        value, label = example_of(table.examples, i, place)
        if lazy and kind == "images" and is_image(value):
            item: Item = DatasetImage(table.examples, i, place)
            if i < 4:
                _check_stable(table.examples, i, place)
        else:
            item = _item(value, kind, place)
        yield Row(item, label, table)


def _check_stable(data: Any, row: int, place: str) -> None:
    if len({DatasetImage(data, row, place).content_id() for _ in range(3)}) > 1:
        raise DataError(f"{place} is another image each time it is read: leave random transforms out")


def _item(value: Any, kind: Kind, place: str) -> Item:
    if kind == "texts":
        if not isinstance(value, str) or not value.strip():
            description = "an empty text" if isinstance(value, str) else kind_of(value)
            raise DataError(f"{place} is {description}, and the task's examples are texts: give text")
        return TextItem(value.strip(), place)
    if isinstance(value, str | os.PathLike):
        path = Path(value)
        with suppress(RuntimeError):  # "~name" of an unknown user: a file may have that name
            path = path.expanduser()
        if not os.path.lexists(path):
            raise DataError(
                f"{place}: there is no file '{printable(value, LONGEST)}', and the task's examples are images (of "
                "texts: task='blackbox-text')"
            )
        value = path.absolute()
    return image_item(value, place)


def _hugging_face_rows(table: Table, kind: Kind, columns: Columns) -> Iterator[Row]:
    data = table.examples
    if not hasattr(data, "with_format"):
        raise ConfigError(f"data '{table.place}' is {kind_of(data)}: give a datasets.Dataset")
    data = data.with_format(None)
    if kind == "images":
        example, label = image_and_label(table.place, data, any_label=True)
        encoded = encoded_rows(data, example)
    else:
        example, label = columns.text, columns.label
        for option, column in (("text_column", example), ("label_column", label)):
            if column not in data.features:
                raise DataError(
                    f"data '{table.place}' has no column '{printable(column, LONGEST)}', only "
                    f"{', '.join(map(printable, data.features))}: task_options={{'{option}': ...}} names it"
                )
    labels = data.features[label]
    names = getattr(labels, "names", None)
    for i, value in enumerate(data[label]):
        if value is None or (names and value < 0):  # an unlabelled row, as hidden test sets have them
            continue
        place = f"{table.place}[{i}]"
        item: Item = (
            RowItem(encoded, example, i, table.place) if kind == "images" else _item(data[i][example], kind, place)
        )
        yield Row(item, value, table)


# --------------------------------------------------------------------------------------------------------- labels


def _own_names(table: Table, kind: Kind, columns: Columns) -> tuple[str, ...]:
    """Return the object's own class names, in the order of its numbers; empty if it has none."""
    data = table.examples
    if _is_hugging_face(data):
        label = image_and_label(table.place, data, any_label=True)[1] if kind == "images" else columns.label
        return tuple(map(str, getattr(data.features[label], "names", None) or ()))
    while hasattr(data, "dataset") and hasattr(data, "indices"):  # torch's Subset
        data = data.dataset
    names = getattr(data, "classes", None)
    return tuple(c if isinstance(c, str) else str(c[0]) for c in names) if isinstance(names, list | tuple) else ()


def _classes(
    rows: Sequence[Row], tables: Sequence[Table], kind: Kind, columns: Columns, class_names: Sequence[str] | None
) -> tuple[str, ...]:
    """Return the names of the classes.

    Raises:
        ConfigError: Labels are numbers without names.
    """
    name_lists = list(dict.fromkeys(names for table in tables if (names := _own_names(table, kind, columns))))
    if class_names is not None:
        names = (class_names,) if isinstance(class_names, str) else tuple(class_names)
        if len(names) < 2 or not all(isinstance(name, str) and name.strip() for name in names):
            raise ConfigError(
                f"class_names is {printable(repr(class_names), LONGEST)}: give the names of two classes or more"
            )
        for others in name_lists:
            if len(others) != len(names):
                raise ConfigError(
                    f"class_names has {len(names)} names, and the data have {len(others)} classes: name each"
                )
        return tuple(name.strip() for name in names)
    if len(name_lists) > 1:
        raise ConfigError(
            f"parts of the data name their classes differently ({name_lists[0]} and {name_lists[1]}): make them one"
        )
    if name_lists:
        return name_lists[0]
    if numbered := next((row for row in rows if not isinstance(row.label, str)), None):
        raise ConfigError(
            f"{numbered.item.name} has the label {printable(repr(numbered.label), LONGEST)}, and nothing says what it "
            "stands for: give class_names=[...], or the names themselves as labels"
        )
    return tuple(sorted({row.label.strip() for row in rows}))


def _label(row: Row, number: Mapping[str, int], classes: Sequence[str]) -> int:
    label, place = row.label, row.item.name
    if isinstance(label, str):
        if label.strip() not in number:
            raise DataError(f"{place}: {unknown_name('class', printable(label.strip(), LONGEST), classes)}")
        return number[label.strip()]
    try:
        if isinstance(label, bool | float) or (hasattr(label, "dtype") and "float" in str(label.dtype)):
            raise TypeError
        k = int(label)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(
            f"{place} has the label {printable(repr(label), LONGEST)}: give the name or the number of a class"
        ) from error
    if not 0 <= k < len(classes):
        digits = k if abs(k) < 10**12 else "of very many digits"
        raise DataError(
            f"{place} has the label {digits}, which is outside the {len(classes)} classes (0 to {len(classes) - 1})"
        )
    return k


def _held_first(
    classes: tuple[str, ...], samples: tuple[Sample, ...]
) -> tuple[tuple[str, ...], tuple[Sample, ...], int]:
    """Put the classes that some client holds first; return classes, samples and the number of the former."""
    labels = {s.label for s in samples if s.domain and s.split != "test"}
    order = sorted(range(len(classes)), key=lambda k: (k not in labels, k))
    new_labels = {old: new for new, old in enumerate(order)}
    relabelled = tuple(Sample(s.item, new_labels[s.label], s.domain, s.split) for s in samples)
    return tuple(classes[k] for k in order), relabelled, len(labels)


# --------------------------------------------------------------------------------------------------------- checks


def _readable(name: str, samples: tuple[Sample, ...], strict: bool) -> CheckedImages:
    """Check every image once; images of files and tables are checked as those of folders and tables."""
    if all(isinstance(sample.item, TextItem) for sample in samples):
        return CheckedImages(samples, content_ids=tuple(sample.item.content_id() for sample in samples))
    on_disk = [sample for sample in samples if isinstance(sample.item, FileItem | RowItem)]
    checked = keep_readable(name, on_disk, strict, _stamp) if on_disk else CheckedImages(())
    ids = {s.item.name: content for s, content in zip(checked.samples, checked.content_ids, strict=True)}
    readable, skipped, looks = [], list(checked.skipped), []
    for sample in samples:
        if isinstance(sample.item, ObjectImage):
            looked = look_at(sample.item)
            if looked.fault:
                if strict:
                    raise DataError(f"{looked.fault}; repair or remove it, or leave strict out to skip it")
                skipped.append(sample.item.name)
                continue
            looks.append((sample.item.name, looked))
            ids[sample.item.name] = looked.content_id
        if sample.item.name in ids:
            readable.append(sample)
    notes = (*checked.notes, *grouped_notes(looks))
    return CheckedImages(tuple(readable), tuple(skipped), notes, tuple(ids[sample.item.name] for sample in readable))


def _stamp(item: ImageItem) -> str:
    return str(getattr(item.rows, "_fingerprint", "")) if isinstance(item, RowItem) else file_stamp(item)


def _fingerprint(source: Source) -> str:
    lines = ["promptfed objects 1", *source.classes]
    for sample, content in zip(source.samples, source.content_ids, strict=True):
        lines.append(f"{content}|{sample.label}|{sample.domain}|{sample.split}")
    return hashlib.sha256("\x00".join(lines).encode("utf-8", "surrogateescape")).hexdigest()
