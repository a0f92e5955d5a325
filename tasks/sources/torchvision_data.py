"""``torchvision:NAME``: the classification data sets that torchvision knows, downloaded if they are not there."""

from __future__ import annotations

import hashlib
import inspect
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from promptfed.cache_dir import cache_folder
from promptfed.errors import DataError, reason, unknown_name
from promptfed.examples import pixels
from promptfed.examples.base import ImageItem, Sample
from promptfed.tasks.sources.base import Source
from promptfed.tasks.sources.class_names import read_class_table

SPLIT_NAMES = {"train": ("train", "trainval"), "val": ("val", "valid"), "test": ("test",)}
"""torchvision's names of our splits, first choice first."""


@dataclass(frozen=True)
class TorchvisionItem(ImageItem):
    """One picture of a torchvision data set."""

    data: Any = field(repr=False, compare=False)
    row: int
    part: str

    @property
    def name(self) -> str:
        return f"{self.part}[{self.row}]"

    def content_id(self) -> str:
        """Return the SHA-256 of size and RGB pixels."""
        image = self.load()
        return hashlib.sha256(f"{image.size}|".encode() + image.tobytes()).hexdigest()

    def load(self) -> Image.Image:
        try:
            image: Image.Image = self.data[self.row][0]
            return pixels.as_rgb(image)[0]
        except DataError:
            raise
        except Exception as error:  # a data set's own reader may raise anything
            raise DataError(f"cannot decode image {self.name}: {error}") from error


def source(name: str, *, data_root: Path | None = None, strict: bool = False) -> Source:
    """Return a data set of torchvision by the name of its class, such as CIFAR10 or Food101.

    Its files are in ``data_root``, by default in promptfed's cache.

    torchvision checks its files by their hashes, so the images are not decoded beforehand.

    Raises:
        ConfigError: The name is unknown.
        DataError: The data set is not available or names no classes.
    """
    import torchvision

    kinds = {
        n: kind
        for n, kind in vars(torchvision.datasets).items()
        if inspect.isclass(kind) and "root" in inspect.signature(kind.__init__).parameters
    }
    if name not in kinds:
        raise unknown_name("torchvision data set", name, kinds)
    root = data_root.expanduser() if data_root else cache_folder() / "torchvision"
    parts = load_parts(name, kinds[name], root)
    first = next(iter(parts.values()))
    labels = class_names(name, first)
    table = read_class_table(root)
    samples = [
        Sample(TorchvisionItem(data, row, f"torchvision:{name}:{split or 'all'}"), label, split=split)
        for split, data in parts.items()
        for row, label in enumerate(labels_of(data))
    ]
    return Source(
        f"torchvision:{name}",
        table.in_order(labels),
        tuple(samples),
        notes=table.notes(labels),
        content_ids=raw_ids(list(parts.values())),
    )


def load_parts(name: str, kind: Any, root: Path) -> dict[str, Any]:
    """Return split -> data set; the only key is '' for a data set that comes in one piece."""
    parameters = inspect.signature(kind.__init__).parameters
    if "train" in parameters:
        return {split: opened(name, kind, root, train=split == "train") for split in ("train", "test")}
    if "split" not in parameters:
        return {"": opened(name, kind, root)}
    parts: dict[str, Any] = {}
    for split, names in SPLIT_NAMES.items():
        for word in names:
            try:
                parts[split] = opened(name, kind, root, split=word)
                break
            except ValueError as error:  # no split of that name; DataError is a ValueError too, and is no such case
                if isinstance(error, DataError):
                    raise
    if not parts:
        raise DataError(f"torchvision:{name} has none of the splits train, val and test: use folder:PATH instead")
    if "test" not in parts and "val" in parts:
        parts["test"] = parts.pop("val")  # ImageNet and its like publish no test labels
    return parts


def opened(name: str, kind: Any, root: Path, **options: Any) -> Any:
    """Return the data set from disk, else download it.

    Raises:
        DataError: Neither works.
        ValueError: An option is bad.
    """
    if "loader" in inspect.signature(kind.__init__).parameters:
        options["loader"] = decoded
    try:
        return kind(str(root), **options)
    except (RuntimeError, OSError) as missing:
        if "download" not in inspect.signature(kind.__init__).parameters:
            raise DataError(f"torchvision:{name} is not in {root} and cannot be downloaded: {missing}") from missing
    try:
        return kind(str(root), download=True, **options)
    except (RuntimeError, OSError) as error:
        raise DataError(
            f"torchvision:{name} is not in {root} and could not be downloaded ({reason(error)}): "
            "put its files there, name their folder with --data-root DIR, or use folder:PATH"
        ) from error


def decoded(path: str) -> Image.Image:
    """Decode the image file ``path``, for data sets that let others read their files."""
    return pixels.decode(Path(path), path)[0]


def class_names(name: str, data: Any) -> tuple[str, ...]:
    """Return the names of the classes.

    Raises:
        DataError: The data set names none.
    """
    names: Sequence[Any] | None = getattr(data, "classes", None) or getattr(data, "categories", None)
    if not names:
        raise DataError(f"torchvision:{name} names no classes, so nothing can be prompted: use folder:PATH instead")
    # ImageNet gives every class a tuple of synonyms, the commonest first.
    return tuple(str(c if isinstance(c, str) else c[0]) for c in names)


FILE_LISTS = ("_image_files", "_images", "samples", "_samples", "imgs", "images")
"""Attributes in which data sets keep the paths of their images."""
FIRST_BYTES = 4096


def raw_ids(parts: Sequence[Any]) -> tuple[str, ...]:
    """Return an id of each picture's stored content, the same for the same content; decodes nothing.

    Of files, only those that agree in size and beginning are read whole. Empty for data sets that show neither their
    arrays nor their files.
    """
    ids: list[str] = []
    files: list[Path] = []
    for data in parts:
        values = getattr(data, "data", None)
        paths = next((p for n in FILE_LISTS if (p := _paths(getattr(data, n, None), len(data)))), None)
        if values is not None and hasattr(values, "shape") and len(values) == len(data):
            ids += [hashlib.sha256(np.ascontiguousarray(values[i]).tobytes()).hexdigest() for i in range(len(data))]
        elif paths:
            files += paths
        else:
            return ()
    return (*ids, *_file_ids(files)) if not (ids and files) else ()


def _paths(values: Any, count: int) -> list[Path]:
    if not isinstance(values, Sequence) or len(values) != count:
        return []
    firsts = [value[0] if isinstance(value, tuple | list) and value else value for value in values]
    return [Path(first) for first in firsts] if all(isinstance(first, str | Path) for first in firsts) else []


def _file_ids(paths: Sequence[Path]) -> list[str]:
    try:
        starts = [_start(path) for path in paths]
        often = Counter(starts)
        return [pixels.content_id(p, str(p)) if often[s] > 1 else s for p, s in zip(paths, starts, strict=True)]
    except (OSError, DataError):  # a file that is missing is named when it is loaded
        return [f"{number}" for number in range(len(paths))]


def _start(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.sha256(f"{path.stat().st_size}|".encode() + file.read(FIRST_BYTES)).hexdigest()


def labels_of(data: Any) -> list[int]:
    """Return labels; decodes no pictures where the data set keeps a list of labels."""
    for attribute in ("targets", "_labels", "labels", "y"):
        values = getattr(data, attribute, None)
        if values is not None and len(values) == len(data):
            return [int(label) for label in values]
    return [int(data[row][1]) for row in range(len(data))]
