"""A CSV file with columns path, label and client: images and the client who holds each, as a user lists them."""

from __future__ import annotations

from pathlib import Path

from promptfed.errors import DataError, FormatError
from promptfed.examples.base import FileItem, Sample
from promptfed.examples.image_check import keep_readable
from promptfed.printable import printable
from promptfed.readers.csv_table import read_table
from promptfed.tasks.sources.base import Source
from promptfed.tasks.sources.class_names import name_classes, read_class_table

COLUMNS = ("path", "label", "client")
LARGEST = 200_000_000
"""Bytes of a list of images."""
SPLITS = ("", "train", "val", "test")


def source(path: str, *, data_root: Path | None = None, strict: bool = False) -> Source:
    """The images of the CSV file ``path``; a sample's domain is its client. ``data_root`` is not used.

    Image paths are absolute or relative to the file. A fourth column ``split`` (train, val, test) may fix the
    splits. An empty client means that nobody holds the image, so it is for test: a class that no client holds is a new
    class, and these come after the base classes. Raises DataError naming the file and the line that is wrong.
    """
    file, shown = Path(path).expanduser(), printable(path)
    rows = read_rows(file)
    table = read_class_table(file.parent)
    naming = name_classes([row["label"] for row in rows], table, "labels")
    name_of = {label: naming.classes[number] for label, number in naming.number.items()}
    held = {name_of[row["label"]] for row in rows if row["client"]}
    classes = (*sorted(held), *sorted(set(naming.classes) - held))
    if not held:
        raise DataError(f"{shown} names no client in any row: its column 'client' is empty")
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
    kept = keep_readable(str(file.resolve()), samples, strict)
    return Source(
        f"csv:{shown}",
        classes,
        kept.samples,
        base_classes=len(held),
        skipped=kept.skipped,
        notes=(*naming.notes, *kept.notes),
        descriptions=table.descriptions(naming.number),
        content_ids=kept.content_ids,
    )


def read_rows(file: Path) -> list[dict[str, str]]:
    """Rows with path, label, client and split, stripped of blanks."""
    try:
        columns, table = read_table(file, LARGEST)
    except (OSError, FormatError) as error:
        raise DataError(
            f"cannot read partition file '{printable(file)}': {getattr(error, 'strerror', None) or error}"
        ) from error
    if missing := [column for column in COLUMNS if column not in columns]:
        first = f" and is '{printable(','.join(columns), 80)}'" if columns else ""
        raise DataError(
            f"{printable(file)} lacks column {', '.join(missing)}: its first line must be {','.join(COLUMNS)}{first}"
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
