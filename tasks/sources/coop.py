"""``coop:NAME``: the data sets of CoOp and of its followers, split as their ``split_zhou_*.json`` files say."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from promptfed.errors import ConfigError, DataError, unknown_name
from promptfed.examples.base import FileItem, Sample
from promptfed.examples.image_check import keep_readable
from promptfed.printable import printable
from promptfed.readers.json_reader import read_json
from promptfed.tasks.sources.base import Source
from promptfed.tasks.sources.class_names import read_class_table

FOLDERS = {
    "caltech101": ("caltech-101", "101_ObjectCategories"),
    "dtd": ("dtd", "images"),
    "eurosat": ("eurosat", "2750"),
    "food101": ("food-101", "images"),
    "oxford_flowers": ("oxford_flowers", "jpg"),
    "oxford_pets": ("oxford_pets", "images"),
    "stanford_cars": ("stanford_cars", ""),
    "sun397": ("sun397", "SUN397"),
    "ucf101": ("ucf101", "UCF-101-midframes"),
}
"""Name -> the data set's folder beneath the data root, and the folder of its images in there."""

OTHER_FORMATS = {"fgvc_aircraft": "lists in text files of its own", "imagenet": "its own folders"}


def source(name: str, *, data_root: Path | None = None, strict: bool = False) -> Source:
    """Return one of CoOp's data sets, its classes in the order of CoOp's labels.

    It is beneath ``data_root``.

    The base half is the first ``ceil(classes / 2)`` labels, as in CoOp and FedTPG.

    Raises:
        ConfigError: The name is unknown, or there is no data root.
        DataError: A split file is missing or malformed.
    """
    if name in OTHER_FORMATS:
        raise ConfigError(
            f"coop:{name} has no split_zhou_*.json file ({OTHER_FORMATS[name]}), so it cannot be read; "
            f"put its images into class folders and use folder:PATH, or choose one of {', '.join(FOLDERS)}"
        )
    if name not in FOLDERS:
        raise unknown_name("coop data set", name, FOLDERS)
    if data_root is None:
        raise ConfigError(f"coop:{name} needs --data-root DIR, the folder that holds '{FOLDERS[name][0]}'")
    folder, images = FOLDERS[name]
    home = data_root.expanduser() / folder
    files = sorted(home.glob("split_zhou_*.json"))
    if len(files) != 1:
        count = f"{len(files)} files match" if files else "no file matches"
        raise DataError(f"coop:{name} needs {home / 'split_zhou_*.json'}, but {count}: get it from CoOp's DATASETS.md")
    rows = read_split(files[0])
    names: dict[int, str] = {}
    for _, label, class_name, _ in rows:
        if names.setdefault(label, class_name) != class_name:
            raise DataError(f"{files[0]} calls label {label} both '{names[label]}' and '{class_name}'")
    order = {label: i for i, label in enumerate(sorted(names))}
    samples = [Sample(FileItem(home / images / path), order[label], split=split) for path, label, _, split in rows]
    checked_images = keep_readable(str(home.resolve()), samples, strict)
    table, labels = read_class_table(home), [names[label] for label in sorted(names)]
    return Source(
        f"coop:{name}",
        table.in_order(labels),
        checked_images.samples,
        base_classes=math.ceil(len(labels) / 2),
        skipped=checked_images.skipped,
        notes=(*table.notes(labels), *checked_images.notes),
        content_ids=checked_images.content_ids,
    )


def read_split(path: Path) -> list[tuple[str, int, str, str]]:
    """Return rows (image, label, class name, split) of a ``split_zhou_*.json``.

    Raises:
        DataError: It is malformed.
    """
    try:
        data: Any = read_json(path)
        return [
            (str(image), int(label), str(name), split)
            for split in ("train", "val", "test")
            for image, label, name in data[split]
        ]
    except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise DataError(
            f"cannot read split file {printable(path)} ({type(error).__name__}: {printable(error, 300)}): "
            'it must hold "train", "val" and "test", '
            "each a list of [image, label, class name]"
        ) from error
