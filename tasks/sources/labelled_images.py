"""Images with several labels each: a CSV file, JSON lines or a JSON file that names the labels of every image."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from promptfed.errors import ConfigError, DataError, FormatError
from promptfed.examples.base import FileItem, Sample
from promptfed.examples.image_check import keep_readable
from promptfed.printable import printable
from promptfed.readers.csv_table import read_table
from promptfed.readers.json_reader import JsonLimits, read_json
from promptfed.tasks.sources import consistent, jsonl
from promptfed.tasks.sources.base import Source
from promptfed.tasks.sources.class_names import Naming, name_classes, read_class_table
from promptfed.tasks.sources.unreadable import why_unreadable

KINDS = ("csv", "jsonl", "json")
"""Formats of lists of images."""
FORM = "csv:FILE with columns path and labels, jsonl:FILE or json:FILE"
LARGEST = 200_000_000
"""Bytes of a list of images."""
JSON_LIMITS = JsonLimits(size=LARGEST, values=8_000_000)
SPLITS = ("", "train", "val", "test")
KEYS = ("path", "labels", "client", "split")


@dataclass(frozen=True)
class LabelledFile(FileItem):
    """An image file with its classes: ``grades`` has 1 for each class that it shows, and 0 for the others."""

    grades: tuple[float, ...] = field(default=(), compare=False, repr=False)


@dataclass(frozen=True)
class ListedImage:
    """A row of a list: where it stands, and what it says."""

    place: str
    path: str
    labels: tuple[str, ...]
    client: str = ""
    split: str = ""


def source(
    data: str,
    *,
    classes: Sequence[str] | None = None,
    skip_unlabelled: bool = False,
    needs_clients: bool = False,
    strict: bool = False,
) -> Source:
    """Return the images of a list; those of its clients are theirs where the list names clients.

    Image paths are absolute or relative to the file. Rows of one path are one image with all their labels. The first
    label of an image is the one that partitions and few-shot draws go by. An image without a client is for test, where
    others have one.

    Args:
        data: ``csv:FILE``, ``jsonl:FILE`` or ``json:FILE``.
        classes: The labels that there may be; None: all that are there.
        skip_unlabelled: Leave out images without a label, instead of refusing them.
        needs_clients: Whether the list must name clients.
        strict: Refuse images that cannot be decoded, instead of leaving them out.

    Raises:
        ConfigError: The kind is unknown, or the file's name is missing.
        DataError: A row is wrong; the message names file and row.
    """
    kind, _, path = data.partition(":")
    if kind not in KINDS or not path:
        raise ConfigError(f"data '{printable(data)}' is no list of images with several labels: write {FORM}")
    file, name = Path(path).expanduser(), f"{kind}:{printable(path)}"
    listed, notes = _labelled(_joined(_rows(kind, file)), name, skip_unlabelled)
    has_clients = any(image.client for image in listed)
    if needs_clients and not has_clients:
        raise DataError(f"{name} names no client in any row: give it a column client")
    table = read_class_table(file.parent)
    naming = name_classes([label for image in listed for label in image.labels], table, "labels")
    _check_labels(listed, naming, classes)
    samples = []
    for image in listed:
        numbers = dict.fromkeys(naming.number[label] for label in image.labels)
        grades = tuple(float(number in numbers) for number in range(len(naming.classes)))
        split = image.split if image.client or not has_clients else "test"
        item = LabelledFile(file.parent / image.path, grades)
        samples.append(Sample(item, next(iter(numbers)), image.client, split))
    images = keep_readable(str(file.resolve()), samples, strict)
    whole = Source(
        name,
        naming.classes,
        images.samples,
        skipped=images.skipped,
        notes=(*notes, *naming.notes, *images.notes),
        descriptions=table.descriptions(naming.number),
        content_ids=images.content_ids,
        by_client=has_clients,
    )
    return consistent(whole, strict=strict)


def _rows(kind: str, file: Path) -> list[ListedImage]:
    """Return the rows of the list ``file``. Raises DataError if it cannot be read or a row is wrong."""
    try:
        if kind == "csv":
            rows = _csv_rows(file)
        elif kind == "jsonl":
            rows = [(place, _parsed(row)) for place, row in jsonl.rows(file)]
        else:
            rows = _json_rows(file)
    except (OSError, FormatError) as error:
        raise DataError(f"cannot read {printable(file)}: {why_unreadable(error)}") from error
    if not rows:
        raise DataError(f"{printable(file)} lists no images")
    return [_image(place, row) for place, row in rows]


def _csv_rows(file: Path) -> list[tuple[str, Mapping[str, Any]]]:
    columns, table = read_table(file, LARGEST)
    if absent := [column for column in KEYS[:2] if column not in columns]:
        first = f" and is '{printable(','.join(columns), 80)}'" if columns else ""
        raise DataError(
            f"{printable(file)} lacks column {', '.join(absent)}: its first line must be path,labels, with client and "
            f"split if you like{first}"
        )
    return [(f"{printable(file)} line {line}", row) for line, row in table]


def _json_rows(file: Path) -> list[tuple[str, Mapping[str, Any]]]:
    content = read_json(file, JSON_LIMITS)
    if not isinstance(content, list):
        raise DataError(
            f"{printable(file)} holds a JSON {type(content).__name__}: it must be a list of objects such as "
            '{"path": "a.jpg", "labels": ["cat", "dog"]}'
        )
    return [(f"{printable(file)} entry {number}", row) for number, row in enumerate(content, 1)]


def _parsed(row: Mapping[str, str | None]) -> dict[str, Any]:
    """Return a row of JSON lines whose labels are a list again."""
    labels = row.get("labels")
    is_list = labels is not None and labels.startswith("[")
    return {**row, "labels": json.loads(labels) if is_list and labels is not None else labels}


def _image(place: str, row: Any) -> ListedImage:
    """Return what a row says. Raises DataError."""
    if not isinstance(row, Mapping) or not all(isinstance(row.get(key) or "", str) for key in ("path", *KEYS[2:])):
        raise DataError(f'{place} must be an object such as {{"path": "a.jpg", "labels": ["cat", "dog"]}}')
    values = {key: (row.get(key) or "").strip() for key in ("path", *KEYS[2:])}
    if not values["path"]:
        raise DataError(f"{place} lacks its path")
    if values["split"] not in SPLITS:
        raise DataError(f"{place}: split '{printable(values['split'], 40)}' must be train, val, test or empty")
    if "labels" not in row:
        raise DataError(f"{place} has no labels: write a list of names, or [] if it shows none of the classes")
    return ListedImage(place, labels=_labels(place, row["labels"]), **values)


def _labels(place: str, value: Any) -> tuple[str, ...]:
    """Return the labels of one image: a list, or names with ``;`` or ``|`` between them. Raises DataError."""
    if isinstance(value, list):
        if not all(isinstance(label, str) and label.strip() for label in value):
            raise DataError(f"{place}: labels must be names, and one of {printable(json.dumps(value), 80)} is none")
        return tuple(dict.fromkeys(label.strip() for label in value))
    if value is not None and not isinstance(value, str):
        raise DataError(f"{place}: labels are {printable(json.dumps(value), 40)}: write a list of names")
    names = tuple(dict.fromkeys(name for part in re.split("[;|]", value or "") if (name := part.strip())))
    if odd := [name for name in names if "," in name]:
        raise DataError(f"{place}: label '{printable(odd[0], 60)}' holds a comma: write ; or | between labels")
    return names


def _joined(listed: Iterable[ListedImage]) -> list[ListedImage]:
    """Return ``listed`` with one entry for each path, which has the labels of all its rows. Raises DataError."""
    images: dict[str, ListedImage] = {}
    for image in listed:
        first = images.setdefault(image.path, image)
        if (first.client, first.split) != (image.client, image.split):
            what = "client" if first.client != image.client else "split"
            raise DataError(f"{image.place} gives '{printable(image.path)}' another {what} than {first.place}")
        images[image.path] = replace(first, labels=tuple(dict.fromkeys((*first.labels, *image.labels))))
    return list(images.values())


def _labelled(listed: list[ListedImage], name: str, skip: bool) -> tuple[list[ListedImage], tuple[str, ...]]:
    """Return the images with a label, and a note on others that are left out. Raises DataError."""
    without = [image for image in listed if not image.labels]
    if without and not skip:
        more = f" ({len(without)} images have none)" if len(without) > 1 else ""
        raise DataError(
            f"{without[0].place}: '{printable(without[0].path)}' has no label{more}: name one, or leave such images "
            "out by --set task.skip_unlabelled=true"
        )
    if len(without) == len(listed):
        raise DataError(f"{name} has no image with a label")
    notes = (f"left out, since they have no label: {len(without)} images",) if without else ()
    return [image for image in listed if image.labels], notes


def _check_labels(listed: Iterable[ListedImage], naming: Naming, classes: Sequence[str] | None) -> None:
    """Raise DataError for a label that is none of ``classes``, which are labels or names of classes."""
    for image in listed if classes is not None else ():
        for label in image.labels:
            if not {label, naming.classes[naming.number[label]]} & set(classes or ()):
                names = ", ".join(printable(name, 40) for name in (classes or ())[:8])
                raise DataError(
                    f"{image.place}: label '{printable(label, 60)}' is none of the classes {names}"
                    f"{' ...' if len(classes or ()) > 8 else ''}: correct it, or add it to --set task.classes"
                )
