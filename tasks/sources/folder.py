"""``folder:PATH``: image files whose folders say their class, and if there are two levels their domain or split."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from promptfed.errors import DataError
from promptfed.tasks.sources.base import FileItem, Sample, Source
from promptfed.tasks.sources.readable import keep_readable

LAYOUTS = "expected PATH/<class>/<image>, PATH/<domain>/<class>/<image> or PATH/{train,val,test}/<class>/<image>"
SUFFIXES = frozenset([".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"])
SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
"""Folder name, or start of file names before an underscore -> split."""


class Found(NamedTuple):
    """An image file and what its place says about it."""

    path: Path
    name: str
    domain: str
    split: str


def source(path: str, *, data_root: Path | None = None, strict: bool = False) -> Source:
    """The images beneath ``path``; the layout is seen from its folders. ``data_root`` is not used.

    Class names are folder names with spaces for underscores. Where every file name starts with train_, val_ or
    test_, and both train and test occur, these are the splits.
    Raises DataError, with the layouts that are understood, if the folder is missing or holds something else.
    """
    root = Path(path).expanduser()
    if not root.exists():
        raise DataError(f"data folder '{root}' does not exist; {LAYOUTS}")
    if not root.is_dir():
        raise DataError(f"data folder '{root}' is a file, not a folder; {LAYOUTS}")
    found = split_by_prefix(list_images(root))
    classes = sorted({image.name for image in found})
    label = {name: i for i, name in enumerate(classes)}
    samples = [Sample(FileItem(f.path), label[f.name], f.domain, f.split) for f in found]
    kept, skipped = keep_readable(str(root.resolve()), samples, strict)
    return Source(f"folder:{path}", tuple(classes), kept, skipped=skipped)


def list_images(root: Path) -> list[Found]:
    """Every image beneath ``root`` in order of its path. Raises DataError if the folders fit no layout."""
    tops = subfolders(root)
    if not tops:
        what = "holds images but no class folders" if images_in(root) else "is empty"
        raise DataError(f"data folder '{root}' {what}; {LAYOUTS}")
    if all(top.name.lower() in SPLITS for top in tops) and not any(images_in(top) for top in tops):
        return [
            image._replace(split=SPLITS[top.name.lower()]) for top in tops for image in list_domains_or_classes(top)
        ]
    return list_domains_or_classes(root)


def list_domains_or_classes(root: Path) -> list[Found]:
    tops = subfolders(root)
    if any(images_in(top) for top in tops):
        return list_classes(root, domain="")
    if not any(subfolders(top) for top in tops):
        raise DataError(f"data folder '{root}' holds no images; {LAYOUTS}")
    return [image for top in tops for image in list_classes(top, domain=top.name.replace("_", " "))]


def list_classes(root: Path, domain: str) -> list[Found]:
    found = []
    for folder in subfolders(root):
        images = images_in(folder)
        if not images:
            raise DataError(f"class folder '{folder}' holds no images; {LAYOUTS}")
        found += [Found(image, folder.name.replace("_", " "), domain, "") for image in images]
    if not found:
        raise DataError(f"data folder '{root}' holds no class folders; {LAYOUTS}")
    return found


def split_by_prefix(found: list[Found]) -> list[Found]:
    """Splits from file names like test_0001.jpg, if that is how the whole data set is named."""
    prefixes = [f.path.name.partition("_")[0].lower() for f in found]
    splits = [SPLITS.get(prefix, "") for prefix in prefixes]
    if any(f.split for f in found) or not all(splits) or not {"train", "test"} <= set(splits):
        return found
    return [f._replace(split=split) for f, split in zip(found, splits, strict=True)]


def subfolders(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith((".", "__")))


def images_in(folder: Path) -> list[Path]:
    """Files that are named like images, directly in ``folder``; a dangling link counts, and is reported later."""
    files = (p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
    return sorted(p for p in files if not p.is_dir())
