"""A CSV file with columns path, label and client: images and the client who holds each, as a user lists them."""

from __future__ import annotations

import csv
from pathlib import Path

from promptfed.errors import DataError
from promptfed.tasks.sources.base import FileItem, Sample, Source
from promptfed.tasks.sources.readable import keep_readable

COLUMNS = ("path", "label", "client")
SPLITS = ("", "train", "val", "test")


def source(path: str, *, data_root: Path | None = None, strict: bool = False) -> Source:
    """The images of the CSV file ``path``; a sample's domain is its client. ``data_root`` is not used.

    Image paths are absolute or relative to the file. A fourth column ``split`` (train, val, test) may fix the
    splits. An empty client means that nobody holds the image, so it is for test: a class that no client holds is a new
    class, and these come after the base classes. Raises DataError naming the file and the line that is wrong.
    """
    file = Path(path).expanduser()
    rows = read_rows(file)
    held = {row["label"] for row in rows if row["client"]}
    classes = [*sorted(held), *sorted({row["label"] for row in rows} - held)]
    if not held:
        raise DataError(f"{file} names no client in any row: its column 'client' is empty")
    label = {name: i for i, name in enumerate(classes)}
    samples = [
        Sample(
            FileItem(file.parent / row["path"]),
            label[row["label"]],
            domain=row["client"],
            split=row["split"] if row["client"] else "test",
        )
        for row in rows
    ]
    kept, skipped = keep_readable(str(file.resolve()), samples, strict)
    names = tuple(name.replace("_", " ") for name in classes)
    return Source(f"csv:{path}", names, kept, base_classes=len(held), skipped=skipped)


def read_rows(file: Path) -> list[dict[str, str]]:
    """Rows with path, label, client and split, stripped of blanks."""
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            missing = [column for column in COLUMNS if column not in (reader.fieldnames or ())]
            if missing:
                raise DataError(f"{file} lacks column {', '.join(missing)}: its first line must be {','.join(COLUMNS)}")
            rows = [{name: (row.get(name) or "").strip() for name in (*COLUMNS, "split")} for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"cannot read partition file '{file}': {getattr(error, 'strerror', None) or error}") from error
    if not rows:
        raise DataError(f"{file} lists no images: it holds only its first line")
    for line, row in enumerate(rows, start=2):
        if not row["path"] or not row["label"]:
            raise DataError(f"{file} line {line} lacks its {'label' if row['path'] else 'path'}")
        if row["split"] not in SPLITS:
            raise DataError(f"{file} line {line}: split '{row['split']}' must be train, val, test or empty")
    return rows
