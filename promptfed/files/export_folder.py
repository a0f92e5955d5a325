"""Folders that a user names and that hold one exported thing: a bundle, an adapter. No other folder is replaced."""

from __future__ import annotations

import os
from collections.abc import Mapping, Set
from dataclasses import dataclass
from pathlib import Path

from promptfed.errors import BundleError
from promptfed.files.atomic_folder import write_folder
from promptfed.printable import LONGEST, printable


@dataclass(frozen=True)
class ExportKind:
    """What a folder holds.

    Attributes:
        article: "a" or "an".
        word: What messages call it.
        config: The file that every such folder has.
        files: All names that such a folder may hold.
    """

    article: str
    word: str
    config: str
    files: Set[str]


def write_export_folder(folder: Path, files: Mapping[str, bytes], kind: ExportKind, overwrite: bool) -> None:
    """Write ``files`` whole or not at all. A folder with other files in it is never removed.

    Args:
        folder: The folder to write.
        files: File name -> content.
        kind: What the folder then holds.
        overwrite: Whether to replace a folder of the same kind.

    Raises:
        BundleError: ``folder`` is a file, holds anything else, or holds what must not be replaced; or the disk refuses.
    """
    shown = printable(folder, LONGEST)
    try:
        target = Path(os.path.realpath(folder))  # resolve() raises RuntimeError for links that go round in a circle
        _check_target(shown, target, kind, overwrite)
        write_folder(target, files, kind.files)
    except OSError as error:
        raise BundleError(
            f"cannot write {kind.word} '{shown}': {error.strerror or error}; choose another folder"
        ) from error


def _check_target(shown: str, target: Path, kind: ExportKind, overwrite: bool) -> None:
    """Raise BundleError if ``target`` exists and must not be replaced."""
    if not target.exists():
        return
    if not target.is_dir():
        raise BundleError(f"cannot write {kind.word} '{shown}': there is a file of that name; choose another folder")
    names = {entry.name for entry in target.iterdir()}
    if not names:
        return
    if kind.config not in names or names - kind.files:
        strange = printable(min(names - kind.files), LONGEST) if names - kind.files else f"no {kind.config}"
        raise BundleError(
            f"folder '{shown}' is not empty and no {kind.word} (it holds {strange}); choose a new or an empty folder"
        )
    if not overwrite:
        raise BundleError(
            f"folder '{shown}' already holds {kind.article} {kind.word}; choose another one, or overwrite it "
            "(--overwrite)"
        )
