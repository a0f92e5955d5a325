"""The image files that a user asks a bundle about: folders and patterns are opened, unreadable ones set apart."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from promptfed.errors import DataError
from promptfed.examples.base import FileItem
from promptfed.examples.image_check import ImageCheck, grouped_notes
from promptfed.export.example_tables import is_table, table_column
from promptfed.printable import printable

LONGEST_NAME = 300
"""Characters of a name that a message shows."""


@dataclass(frozen=True)
class ImageFiles:
    """``readable`` files in the order asked for, ``problems`` of the others by path, ``notes`` on what was taken."""

    readable: tuple[Path, ...]
    problems: dict[Path, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def find_image_files(names: Sequence[str]) -> ImageFiles:
    """Return the images among ``names``.

    Each is decoded once here, so that one bad file does not cost the others their answer.

    Args:
        names: Paths of files; of folders, of which every image inside is taken; of CSV files with a column of paths;
            or patterns such as ``photos/*.jpg``, for shells that leave them to the program.

    Raises:
        ConfigError: A CSV file cannot be read.
    """
    paths: list[Path] = []
    problems: dict[Path, str] = {}
    notes: list[str] = []
    for opened in [each for name in names for each in _opened(name, problems, notes)]:
        path = Path(opened)
        try:
            is_folder = path.is_dir()
        except (OSError, ValueError) as error:  # a name that is too long, say
            problems[path] = _unreadable(path, error)
            continue
        if not is_folder:
            paths.append(path)
            continue
        inside = _images_in(path)
        if inside:
            notes.append(f"{len(inside)} images in folder {printable(path)}")
        else:
            problems[path] = f"folder {printable(path)} holds no image file"
        paths += inside
    readable, looks = [], []
    for path in dict.fromkeys(paths):
        try:
            looks.append((printable(path), ImageCheck(note=FileItem(path).examine())))
        except DataError as error:
            problems[path] = str(error)
        else:
            readable.append(path)
    return ImageFiles(tuple(readable), problems, (*notes, *grouped_notes(looks)))


def _opened(name: str, problems: dict[Path, str], notes: list[str]) -> list[str]:
    """Return the paths that ``name`` stands for: those in a CSV file, those that fit a pattern, or itself."""
    if not name:  # the path "" is the folder one stands in
        problems[Path(name)] = "cannot read image '': its name is empty"
        return []
    if is_table(name):
        rows = table_column(Path(name), "path")
        notes.append(f"{len(rows)} images in {printable(name)}")
        return rows
    try:
        if not glob.has_magic(name) or Path(name).exists():
            return [name]
        fitting = sorted(glob.glob(name, recursive=True))
    except (OSError, ValueError) as error:
        problems[Path(name)] = _unreadable(Path(name), error)
        return []
    if not fitting:
        problems[Path(name)] = f"no file fits the pattern {printable(name, LONGEST_NAME)}"
    return fitting


def _unreadable(path: Path, error: Exception) -> str:
    return f"cannot read image {printable(path, LONGEST_NAME)}: {getattr(error, 'strerror', None) or error}"


def _images_in(folder: Path) -> list[Path]:
    """Return the files in ``folder``, at any depth, that are named like images, sorted by path; hidden ones are not."""
    endings = {ending for ending, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in endings
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
