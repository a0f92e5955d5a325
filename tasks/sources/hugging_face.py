"""``hf:NAME[:split]``: image data sets of the ``datasets`` library, from the hub or from a local folder."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from PIL import Image

from promptfed.errors import ConfigError, DataError, reason
from promptfed.examples import pixels
from promptfed.examples.base import ImageItem, Sample
from promptfed.examples.image_check import keep_readable
from promptfed.printable import printable
from promptfed.tasks.sources.base import Source
from promptfed.tasks.sources.class_names import read_class_table

SPLITS = {"train": "train", "validation": "val", "valid": "val", "val": "val", "dev": "val", "test": "test"}


@dataclass(frozen=True)
class RowItem(ImageItem):
    """The image of one row. ``rows`` yields encoded bytes or a path, never decoded pixels."""

    is_thread_safe: ClassVar[bool] = True
    rows: Any = field(repr=False, compare=False)
    column: str
    row: int
    part: str

    @property
    def name(self) -> str:
        return f"{self.part}[{self.row}]"

    def encoded(self) -> bytes | Path:
        """Return the encoded image, or the file that holds it."""
        try:
            value = self.rows[self.row][self.column]
            return bytes(value["bytes"]) if value["bytes"] is not None else Path(value["path"])
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise DataError(f"cannot read image {self.name}: there is none in this row ({error})") from error

    def content_id(self) -> str:
        """Return the SHA-256 of the encoded image, and of the decoder's rules where these matter."""
        return pixels.content_id(self.encoded(), self.name)

    def load(self) -> Image.Image:
        return pixels.decode(self.encoded(), self.name)[0]

    def examine(self) -> str:
        return pixels.examine(self.encoded(), self.name)

    def is_large(self) -> bool:
        return pixels.is_large(self.encoded(), self.name)


def source(name: str, *, data_root: Path | None = None, strict: bool = False) -> Source:
    """Return a data set of the Hugging Face hub or of a folder: train, validation and test, or one split alone.

    ``name`` is a data set of the hub, a folder made with ``save_to_disk``, or a local folder that ``load_dataset``
    understands. A ``classes.csv`` in that folder, or in ``data_root``, gives other class names.

    Raises:
        DataError: It cannot be loaded or holds no images with labels.
    """
    path, only = split_name(name)
    tables = load_tables(path)
    if only and only not in tables:
        raise ConfigError(f"hf:{path} has no split '{only}': it has {', '.join(tables)}")
    selection = {only: tables[only]} if only else {s: t for s, t in tables.items() if s in SPLITS} or tables
    first = next(iter(selection.values()))
    image, label = image_and_label(path, first)
    labels = [str(name) for name in first.features[label].names]
    table_of_names = read_class_table(names_folder(path, data_root))
    samples: list[Sample] = []
    stamps: dict[str, str] = {}
    for split, table in selection.items():
        rows = encoded_rows(table, image)
        stamps[f"hf:{path}:{split}"] = str(getattr(table, "_fingerprint", ""))
        for i, value in enumerate(table[label]):
            if value is None or value < 0:  # an unlabelled row, as hidden test sets have them
                continue
            item = RowItem(rows, image, i, f"hf:{path}:{split}")
            samples.append(Sample(item, int(value), split="" if only else SPLITS.get(split, "")))

    def stamp(item: ImageItem) -> str:
        assert isinstance(item, RowItem)
        return stamps[item.part]

    checked_images = keep_readable(f"hf:{path}", samples, strict, stamp)
    return Source(
        f"hf:{printable(name)}",
        table_of_names.in_order(labels),
        checked_images.samples,
        skipped=checked_images.skipped,
        notes=(*table_of_names.notes(labels), *checked_images.notes),
        content_ids=checked_images.content_ids,
    )


def names_folder(path: str, data_root: Path | None) -> Path | None:
    """Return the folder of a ``classes.csv``: the data set's, or the data root of one that is not here."""
    local = Path(path).expanduser()
    if local.is_dir():
        return local
    return data_root.expanduser() if data_root is not None else None


def split_name(name: str) -> tuple[str, str]:
    """Split ``"cifar10:train"`` into ``("cifar10", "train")``; the split is empty if none is named."""
    if Path(name).expanduser().exists():
        return name, ""
    path, _, split = name.rpartition(":")
    return (path, split) if path and "/" not in split and "\\" not in split else (name, "")


def load_tables(path: str) -> dict[str, Any]:
    """Return split -> table.

    Raises:
        DataError: ``path`` cannot be loaded; the message names the offline way.
    """
    import datasets

    local = Path(path).expanduser()
    try:
        if (local / "dataset_dict.json").exists() or (local / "state.json").exists():
            tables = datasets.load_from_disk(str(local))
        else:
            tables = datasets.load_dataset(str(local) if local.exists() else path)
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        raise DataError(
            f"cannot load hf:{path} ({reason(error)}): check its name and the network; "
            "offline, use folder:PATH, or hf:PATH with a folder made by save_to_disk"
        ) from error
    return dict(tables) if isinstance(tables, dict) else {"all": tables}


def image_and_label(path: str, table: Any, *, any_label: bool = False) -> tuple[str, str]:
    """Return the names of the one image column and of the class label column.

    ``any_label`` allows a column "label" of numbers or names.
    """
    import datasets

    images = [c for c, kind in table.features.items() if isinstance(kind, datasets.Image)]
    labels = [c for c, kind in table.features.items() if isinstance(kind, datasets.ClassLabel)]
    if any_label and not labels:
        labels = [c for c in ("label", "labels") if isinstance(table.features.get(c), datasets.Value)]
    if not images or not labels:
        lacks = "image" if not images else "class label"
        raise DataError(
            f"hf:{path} has no {lacks} column, only {', '.join(table.features)}: use a classification data set"
        )
    # Where there are several (CIFAR-100 has coarse and fine labels), the usual names win, then the last one.
    label = next((c for c in ("label", "labels", "fine_label") if c in labels), labels[-1])
    return ("image" if "image" in images else images[0]), label


def encoded_rows(table: Any, column: str) -> Any:
    """Return the rows of ``table`` with the images in ``column`` not decoded."""
    import datasets

    return table.select_columns([column]).cast_column(column, datasets.Image(decode=False))
