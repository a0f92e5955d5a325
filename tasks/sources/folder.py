"""``folder:PATH``: image files whose folders give their class, and on two levels their domain or split."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from promptfed.errors import DataError
from promptfed.examples.base import FileItem, Sample
from promptfed.examples.image_check import keep_readable
from promptfed.printable import printable
from promptfed.tasks.sources.base import Source
from promptfed.tasks.sources.class_names import name_classes, read_class_table, spoken
from promptfed.tasks.sources.splits import split_of
from promptfed.tasks.sources.unreadable import not_there

LAYOUTS = "expected PATH/<class>/<image>, PATH/<domain>/<class>/<image> or PATH/{train,val,test}/<class>/<image>"
SUFFIXES = frozenset(
    [".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".avif", ".jp2"]
)
OTHER_IMAGES = frozenset(
    [".heic", ".heif", ".dcm", ".dicom", ".nii", ".svg", ".psd", ".raw", ".cr2", ".cr3", ".nef", ".arw", ".dng", ".jxl",
     ".exr", ".npy", ".pdf", ".eps", ".tga", ".mp4", ".mov", ".avi", ".zip", ".tar", ".gz", ""]
)  # fmt: skip
"""Names of files that may be meant as images and are not read; ``""``: no suffix at all."""


class Found(NamedTuple):
    """An image file with the class, domain and split of its place; ``label`` is the name of its class folder."""

    path: Path
    label: str
    domain: str
    split: str


def source(path: str, *, data_root: Path | None = None, strict: bool = False) -> Source:
    """Return the images in a folder, whose subfolders say classes, splits and domains.

    ``data_root`` is not used.

    Class names are folder names with spaces for underscores, or names from ``PATH/classes.csv``. Where every file name
    starts with train_, val_ or test_, and both train and test occur, these are the splits.

    Raises:
        DataError: The folder is missing or holds something else; the message lists the layouts.
    """
    root, text = Path(path).expanduser(), printable(path)
    if not root.exists():
        raise DataError(f"data folder {not_there(root)}; {LAYOUTS}")
    if not root.is_dir():
        raise DataError(f"data folder '{text}' is a file, not a folder; {LAYOUTS}")
    try:
        images, notes = list_images(root)
        remarks = left_out(root, {image.path for image in images})
    except OSError as error:
        raise DataError(
            f"cannot read data folder '{printable(error.filename or path)}': {error.strerror or error}"
        ) from error
    images, prefix_notes = split_by_prefix(images)
    table = read_class_table(root)
    labels = sorted({image.label for image in images})
    naming = name_classes(labels, table, "folders")
    samples = [Sample(FileItem(f.path), naming.number[f.label], f.domain, f.split) for f in images]
    checked_images = keep_readable(str(root.resolve()), samples, strict)
    return Source(
        f"folder:{text}",
        naming.classes,
        checked_images.samples,
        skipped=checked_images.skipped,
        notes=(*notes, *prefix_notes, *remarks, *naming.notes, *checked_images.notes),
        descriptions=table.descriptions(labels),
        content_ids=checked_images.content_ids,
    )


def list_images(root: Path) -> tuple[list[Found], tuple[str, ...]]:
    """Return every image beneath ``root`` in order of its path, and notes on the reading of the folders.

    Raises:
        DataError: The folders fit no layout, or only some look like splits.
    """
    tops = subfolders(root)
    if not tops:
        fault = "is empty" if not any(root.iterdir()) else "holds neither images nor folders"
        fault = "holds images but no class folders" if images_in(root) else fault
        raise DataError(f"data folder '{printable(root)}' {fault}; {LAYOUTS}")
    splits = [top for top in tops if split_of(top.name)]
    flat = [top for top in splits if images_in(top)]
    rest = [top for top in tops if top not in splits]
    if not splits:
        return list_domains_or_classes(root), ()
    if len(flat) == len(splits) and rest:
        names = _names(splits)
        return list_domains_or_classes(root), (f"{names}: taken as class, since images are in it",)
    if flat:
        raise DataError(
            f"'{printable(root)}' has what looks like splits, {_names(flat)}, that hold images but no class folders; "
            f"{LAYOUTS}"
        )
    strange = [top for top in rest if holds_images(top)]
    if strange:
        raise DataError(
            f"'{printable(root)}' has what looks like splits, {_names(splits)}, and beside that {_names(strange)}: "
            f"rename or move {'it' if len(strange) == 1 else 'them'}; {LAYOUTS}"
        )
    notes = [f"{_names(rest)} of '{printable(root)}' holds no images and is left out"] if rest else []
    if odd := [top for top in splits if top.name not in ("train", "val", "test")]:
        listing = ", ".join(f"'{printable(top.name)}' as {split_of(top.name)}" for top in odd)
        notes.append(f"folders are taken as splits: {listing}")
    images = [image._replace(split=split_of(top.name)) for top in splits for image in list_domains_or_classes(top)]
    return images, tuple(notes)


def list_domains_or_classes(root: Path) -> list[Found]:
    """Return the images beneath ``root``, whose folders are domains of classes, or classes."""
    tops = subfolders(root)
    if any(images_in(top) for top in tops):
        return list_classes(root, domain="")
    if not any(subfolders(top) for top in tops):
        raise DataError(f"data folder '{printable(root)}' holds no images{_kinds(tops)}; {LAYOUTS}")
    return [image for top in tops for image in list_classes(top, domain=spoken(top.name))]


def list_classes(root: Path, domain: str) -> list[Found]:
    """Return the images in the class folders of ``root``."""
    result = []
    folders = subfolders(root)
    if domain and folders and all(split_of(folder.name) for folder in folders):
        raise DataError(
            f"'{printable(root)}' holds {_names(folders)}, which look like splits: these must stand above the classes; "
            f"{LAYOUTS}"
        )
    for folder in folders:
        images = images_in(folder)
        if not images:
            raise DataError(f"class folder '{printable(folder)}' holds no images{_kinds([folder])}; {LAYOUTS}")
        result += [Found(image, folder.name, domain, "") for image in images]
    if not result:
        raise DataError(f"data folder '{printable(root)}' holds no class folders; {LAYOUTS}")
    return result


def split_by_prefix(found: list[Found]) -> tuple[list[Found], tuple[str, ...]]:
    """Return splits from file names like test_0001.jpg, if the whole data set is named so; and notes."""
    splits = [split_of(f.path.name.partition("_")[0]) if "_" in f.path.name else "" for f in found]
    if any(f.split for f in found) or not {"train", "test"} <= set(splits):
        return found, ()
    count = Counter(splits)
    if count[""]:
        n_prefixed = len(found) - count[""]
        return found, (
            f"names of {n_prefixed} of {len(found)} images begin with train_ or test_, others do not: none is a split",
        )
    counts = ", ".join(f"{number} {split}" for split, number in sorted(count.items()))
    return [f._replace(split=split) for f, split in zip(found, splits, strict=True)], (
        f"splits are those that file names begin with (train_, val_, test_): {counts}",
    )


def left_out(root: Path, taken: Iterable[Path]) -> tuple[str, ...]:
    """Return notes on files beneath ``root`` that look like images and are none of those ``taken``."""
    known_paths = {str(path) for path in taken}
    loose: list[str] = []
    hidden_folders: list[str] = []
    unknown_files: Counter[str] = Counter()
    for folder, folders, files in os.walk(root):
        hidden_folders += [os.path.join(folder, name) for name in sorted(folders) if is_hidden(name)]
        folders[:] = sorted(name for name in folders if not is_hidden(name))
        for name in sorted(files):
            path = os.path.join(folder, name)
            if name.startswith(".") or path in known_paths:
                continue
            suffix = os.path.splitext(name)[1].lower()
            if suffix in SUFFIXES:
                loose.append(path)
            elif suffix in OTHER_IMAGES:
                unknown_files[suffix] += 1
    notes = []
    if loose:
        notes.append(
            f"left out, since they stand outside of the class folders: {len(loose)} images; the first is "
            f"{printable(loose[0])}"
        )
    if full := [path for path in hidden_folders if holds_images(Path(path))]:
        notes.append(
            f"left out, since their names begin with . or __: {len(full)} folder{'s' if len(full) > 1 else ''} with "
            f"images; the first is {printable(full[0])}"
        )
    if unknown_files:
        kinds = ", ".join(f"{count} {suffix or 'without a suffix'}" for suffix, count in sorted(unknown_files.items()))
        notes.append(f"files that are not read as images are left out: {kinds}")
    return tuple(notes)


def subfolders(folder: Path) -> list[Path]:
    """Return the visible folders in ``folder``, sorted by name."""
    return sorted(p for p in folder.iterdir() if not is_hidden(p.name) and p.is_dir())


def is_hidden(name: str) -> bool:
    """Return whether a folder is one of those that tools leave behind."""
    return name.startswith((".", "__"))


def images_in(folder: Path) -> list[Path]:
    """Return files named like images, directly in ``folder``; a dangling link counts, and is reported later."""
    files = (p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
    return sorted(p for p in files if not p.is_dir())


def holds_images(folder: Path) -> bool:
    """Return whether a file named like an image is in ``folder`` or anywhere beneath it."""
    return any(
        os.path.splitext(name)[1].lower() in SUFFIXES and not name.startswith(".")
        for _, _, files in os.walk(folder)
        for name in files
    )


def _names(folders: Sequence[Path]) -> str:
    listing = ", ".join(f"'{printable(folder.name)}'" for folder in folders[:5])
    return f"folder{'s' if len(folders) > 1 else ''} {listing}{', ...' if len(folders) > 5 else ''}"


def _kinds(folders: Iterable[Path]) -> str:
    """Return what files there are where no images are: " (only 12 .dcm files)"."""
    files = [p for folder in folders for p in folder.iterdir() if not p.name.startswith(".") and p.is_file()]
    if not files:
        return ""
    suffix, count = Counter(p.suffix.lower() for p in files).most_common(1)[0]
    return f", but {count} {printable(suffix, 20) or 'suffixless'} files, which are not read"
