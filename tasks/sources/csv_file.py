"""A user's CSV file with columns path, label and client: images and their clients."""

from __future__ import annotations

from pathlib import Path

from promptfed.errors import DataError, FormatError
from promptfed.examples.base import FileItem, Sample
from promptfed.examples.image_check import keep_readable
from promptfed.printable import printable
from promptfed.readers.csv_table import read_table
from promptfed.tasks.sources.base import Source
from promptfed.tasks.sources.class_names import name_classes, read_class_table
from promptfed.tasks.sources.unreadable import why_unreadable

COLUMNS = ("path", "label", "client")
LARGEST = 200_000_000
"""Bytes of a list of images."""
SPLITS = ("", "train", "val", "test")


def source(path: str, *, data_root: Path | None = None, strict: bool = False) -> Source:
    """Return the images of the CSV file ``path``; a sample's domain is its client. ``data_root`` is not used.

    Image paths are absolute or relative to the file. A fourth column ``split`` (train, val, test) may fix the splits.
    An image without a client is for test. A class that no client holds is a new class, and these come after the base
    classes.

    Raises:
        DataError: A line is wrong; the message names file and line.
    """
    file, path_text = Path(path).expanduser(), printable(path)
    rows = read_rows(file)
    table = read_class_table(file.parent)
    naming = name_classes([row["label"] for row in rows], table, "labels")
    name_of = {label: naming.classes[number] for label, number in naming.number.items()}
    client_classes = {name_of[row["label"]] for row in rows if row["client"]}
    classes = (*sorted(client_classes), *sorted(set(naming.classes) - client_classes))
    if not client_classes:
        raise DataError(f"{path_text} names no client in any row: its column 'client' is empty")
    number = {name: i for i, name in enumerate(classes)}
    samples = [
        Sample(
            FileItem(file.parent / row["path"]),
            number[name_of[row["label"]]],
            domain=row["client"],
            split=row["split"] if row["client"] else "test",
        )
        for row in rows
    ]
    checked_images = keep_readable(str(file.resolve()), samples, strict)
    return Source(
        f"csv:{path_text}",
        classes,
        checked_images.samples,
        base_classes=len(client_classes),
        skipped=checked_images.skipped,
        notes=(*naming.notes, *checked_images.notes),
        descriptions=table.descriptions(naming.number),
        content_ids=checked_images.content_ids,
    )


def read_rows(file: Path) -> list[dict[str, str]]:
    """Return rows with path, label, client and split, stripped of blanks."""
    try:
        columns, table = read_table(file, LARGEST)
    except (OSError, FormatError) as error:
        raise DataError(f"cannot read partition file '{printable(file)}': {why_unreadable(error)}") from error
    if absent := [column for column in COLUMNS if column not in columns]:
        first = f" and is '{printable(','.join(columns), 80)}'" if columns else ""
        raise DataError(
            f"{printable(file)} lacks column {', '.join(absent)}: its first line must be {','.join(COLUMNS)}{first}"
        )
    if not table:
        raise DataError(f"{printable(file)} lists no images: it holds only its first line")
    rows = []
    for line, values in table:
        row = {name: values.get(name, "") for name in (*COLUMNS, "split")}
        if not row["path"] or not row["label"]:
            raise DataError(f"{printable(file)} line {line} lacks its {'label' if row['path'] else 'path'}")
        if row["split"] not in SPLITS:
            raise DataError(
                f"{printable(file)} line {line}: split '{printable(row['split'], 40)}' must be train, val, test or "
                "empty"
            )
        rows.append(row)
    return rows
