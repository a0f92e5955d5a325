"""The image files that a user asks a bundle about: folders are opened, what cannot be read is set apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from promptfed.errors import DataError
from promptfed.examples.base import FileItem
from promptfed.examples.image_check import ImageCheck, grouped_notes
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
    """Return the images among ``names``, paths of files and of folders, of which every image inside is taken.

    Each is decoded once here, so that one bad file does not cost the others their answer.
    """
    paths: list[Path] = []
    problems: dict[Path, str] = {}
    notes = []
    for name in names:
        path = Path(name)
        try:
            is_folder = bool(name) and path.is_dir()
        except (OSError, ValueError) as error:  # a name that is too long, say
            why = getattr(error, "strerror", None) or error
            problems[path] = f"cannot read image {printable(path, LONGEST_NAME)}: {why}"
            continue
        if not name:  # the path "" is the folder one stands in
            problems[path] = "cannot read image '': its name is empty"
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
