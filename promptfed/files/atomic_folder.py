"""Folders that are there whole or not at all, and that never cost anybody else's files.

A folder is written beside its place under a name of this process's own (``.NAME.promptfed-PID-TOKEN.draft``) and then
renamed. One that it replaces is first renamed to ``...-TOKEN.old``. What a killed writer left behind is removed by the
next one: only names of this form, only of processes that have ended, and only files that such a folder may hold.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterator, Mapping, Set
from contextlib import suppress
from pathlib import Path

from promptfed.files.atomic import LONGEST_STEM, sync_folder, write_synced
from promptfed.files.processes import is_running

DRAFT, OLD = "draft", "old"
_under_way: set[str] = set()
"""Names of the drafts that this process is writing now: those of its earlier failures are leftovers like any other."""


def write_folder(target: Path, files: Mapping[str, bytes], own_names: Set[str]) -> None:
    """Make ``target`` a folder of exactly ``files``, in one step, in the place of the folder that is there.

    Args:
        target: Absolute path. What stands there is an empty folder, one that holds ``own_names`` only, or nothing.
        files: File name -> content.
        own_names: All names that such a folder may hold; nothing else is ever removed.

    Raises:
        OSError: The disk refuses. Then ``target`` is as it was (or new, if only the last sync failed), and nothing is
            left beside it.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(target, own_names)
    draft, old = _names(target)
    is_moved = False
    _under_way.update((draft.name, old.name))
    try:
        draft.mkdir()
        for name, content in files.items():
            write_synced(draft / name, content)
        sync_folder(draft)
        if target.exists():
            target.rename(old)
            is_moved = True
        draft.rename(target)
        is_moved = False
        sync_folder(target.parent)
    finally:
        try:
            if is_moved:
                old.rename(target)
            for leftover in (old, draft):
                _remove(leftover, own_names)
        finally:
            _under_way.difference_update((draft.name, old.name))


def _names(target: Path) -> tuple[Path, Path]:
    """Return names beside ``target`` that nothing has: of the draft, and of what is replaced."""
    stem = f".{target.name[:LONGEST_STEM]}.promptfed-{os.getpid()}-{secrets.token_hex(8)}"
    return target.parent / f"{stem}.{DRAFT}", target.parent / f"{stem}.{OLD}"


def _leftovers(target: Path) -> Iterator[Path]:
    """Yield the drafts and replaced folders of ``target`` that nobody is writing any more."""
    form = re.compile(
        re.escape(f".{target.name[:LONGEST_STEM]}.promptfed-") + rf"(\d+)-[0-9a-f]{{16}}\.({DRAFT}|{OLD})"
    )
    for path in target.parent.iterdir():
        match = form.fullmatch(path.name)
        if match and path.name not in _under_way and (int(match[1]) == os.getpid() or not is_running(int(match[1]))):
            yield path


def _remove_leftovers(target: Path, own_names: Set[str]) -> None:
    """Remove what killed writers of ``target`` left; put back what one of them had moved aside."""
    for path in sorted(_leftovers(target)):
        if path.name.endswith(OLD) and not target.exists():
            path.rename(target)
        else:
            _remove(path, own_names)


def _remove(folder: Path, own_names: Set[str]) -> None:
    """Remove the files of ``own_names`` in ``folder``, and the folder if it is then empty; a link is not followed."""
    if folder.is_symlink() or not folder.is_dir():
        return
    for name in own_names:
        with suppress(OSError):
            (folder / name).unlink(missing_ok=True)
    with suppress(OSError):
        folder.rmdir()
