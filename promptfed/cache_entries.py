"""What lies in the cache folder, by kind, and how it is removed: what is in use, paid for, or not ours stays."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from promptfed.errors import ConfigError, unknown_name
from promptfed.printable import LONGEST, printable

KINDS = {
    "image-features": "features of images and of their patches",
    "text-features": "features of texts, class names among them",
    "answers": "answers of black boxes; they may have cost money",
    "towers": "text towers, which load faster than whole models",
    "models": "weights that were put together from packages",
    "bundles": "bundles fetched from the hub",
    "checks": "which images can be decoded",
    "partitions": "who holds what, of many clients",
    "data": "data sets that torchvision fetched",
}
"""Kind -> what it is."""
GROUPS = {"features": ("image-features", "text-features")}
"""Name that stands for several kinds."""
PAID = frozenset({"answers"})
"""Kinds that are removed only where they are named."""
PLACES = {
    "towers": "towers", "models": "models", "bundles": "bundles", "checks": "readable", "partitions": "partitions",
    "data": "torchvision",
}  # fmt: skip
"""Kind -> its folder; each entry in it is one thing."""
FEATURES, ANSWERS = "features", "oracle"
ENDING = re.compile(r"(\d+(?:\.\d*)?)\s*([hdw])")
HOURS = {"h": 1, "d": 24, "w": 168}
LOCKS = (".lock", ".partial", ".commit")
"""Endings of files that belong to another entry."""


@dataclass(frozen=True)
class Entry:
    """One thing in the cache: a file, or a folder that is kept or removed whole.

    Attributes:
        kind: One of ``KINDS``.
        path: Where it is.
        size: Its bytes.
        used: When it was last used or written, in seconds since 1970.
        files: How many files it is.
    """

    kind: str
    path: Path
    size: int
    used: float
    files: int = 1


def cache_entries(folder: Path) -> list[Entry]:
    """Return all that promptfed keeps in the cache ``folder``, least recently used first. Links are left out."""
    entries = [entry for path, kind in _paths(folder) if (entry := _entry(kind, path)) is not None]
    return sorted(entries, key=lambda entry: (entry.used, str(entry.path)))


def chosen_entries(
    entries: Sequence[Entry],
    kinds: Sequence[str] = (),
    older_than: float | None = None,
    max_size: int | None = None,
    now: float | None = None,
) -> list[Entry]:
    """Return the entries that a cleaning removes.

    Args:
        entries: All of the cache, least recently used first.
        kinds: Names of kinds or of groups of kinds; none: all but those that may have cost money.
        older_than: Seconds; entries used since then stay.
        max_size: Bytes; the most recently used entries of these kinds stay as far as they fit.
        now: The time; by default that of the clock.

    Raises:
        ConfigError: A kind is unknown.
    """
    wanted = _kinds(kinds)
    chosen = [entry for entry in entries if entry.kind in wanted]
    total = sum(entry.size for entry in chosen)
    if older_than is not None:
        border = (time.time() if now is None else now) - older_than
        chosen = [entry for entry in chosen if entry.used < border]
    if max_size is None:
        return chosen
    removed = []
    for entry in chosen:
        if total <= max_size:
            break
        removed.append(entry)
        total -= entry.size
    return removed


def remove_entries(folder: Path, entries: Iterable[Entry]) -> tuple[list[Entry], list[tuple[Entry, str]]]:
    """Remove ``entries`` of the cache ``folder``; return those that are gone, and those that stay with the reason."""
    gone: list[Entry] = []
    left: list[tuple[Entry, str]] = []
    with _held(folder / FEATURES / "lock") as has_features:
        for entry in entries:
            is_feature = entry.kind in GROUPS["features"]
            try:
                why = "features are being written" if is_feature and not has_features else _removed(entry)
            except OSError as error:
                why = error.strerror or str(error)
            if why:
                left.append((entry, why))
            else:
                gone.append(entry)
    _remove_empty(folder / FEATURES)
    return gone, left


def parsed_age(text: str) -> float:
    """Return the seconds that ``text`` says, such as 30d, 12h or 2w. Raises ConfigError if it says none."""
    match = ENDING.fullmatch(text.strip().lower())
    if match is None:
        raise ConfigError(f"--older-than is '{printable(text, LONGEST)}': give an age such as 30d, 12h or 2w")
    return float(match[1]) * HOURS[match[2]] * 3600


# --------------------------------------------------------------------------------------------------- internals


def _kinds(names: Sequence[str]) -> set[str]:
    known = {**{kind: (kind,) for kind in KINDS}, **GROUPS}
    if unknown := [name for name in names if name not in known]:
        raise unknown_name("kind of cache", unknown[0], known)
    if not names:
        return set(KINDS) - PAID
    return {kind for name in names for kind in known[name]}


def _paths(folder: Path) -> Iterator[tuple[Path, str]]:
    """Yield the paths of all entries with their kinds."""
    for shard in folder.glob(f"{FEATURES}/*/*/*.safetensors"):
        is_text = shard.parent.name in ("texts", "anchors")
        yield shard, "text-features" if is_text else "image-features"
    for file in folder.glob(f"{ANSWERS}/*.sqlite*"):
        if not file.name.endswith(("-wal", "-shm")):
            yield file, "answers"
    for kind, name in PLACES.items():
        for path in folder.glob(f"{name}/*"):
            if not path.name.endswith(LOCKS):
                yield path, kind


def _entry(kind: str, path: Path) -> Entry | None:
    """Return what is at ``path``; None if it is a link, or gone."""
    size, used, files = 0, 0.0, 0
    try:
        if path.is_symlink():
            return None
        for file in [path, *_parts(path)] if path.is_file() else path.rglob("*"):
            status = file.lstat()
            if file.is_file() and not file.is_symlink():
                size, used, files = size + status.st_size, max(used, status.st_mtime), files + 1
    except OSError:  # removed by another process
        return None
    return Entry(kind, path, size, used or path.stat().st_mtime, files)


def _parts(path: Path) -> list[Path]:
    """Return the files that SQLite keeps beside a database."""
    return [part for ending in ("-wal", "-shm") if (part := path.with_name(path.name + ending)).is_file()]


def _removed(entry: Entry) -> str:
    """Remove one entry; return why it stays, empty if it is gone."""
    if entry.kind == "answers" and _is_used(entry.path):
        return "another process uses it"
    lock = Path(f"{entry.path}.lock")
    if lock.exists():
        with _held(lock) as is_ours:
            if not is_ours:
                return "another process uses it"
    for part in _parts(entry.path):
        part.unlink(missing_ok=True)
    if entry.path.is_dir():
        shutil.rmtree(entry.path)
        with suppress(OSError):
            Path(f"{entry.path}.commit").unlink(missing_ok=True)
    else:
        entry.path.unlink(missing_ok=True)
    return ""


def _is_used(database: Path) -> bool:
    """Whether another process writes to a database of answers, or has it open."""
    try:
        connection = sqlite3.connect(f"{database.resolve().as_uri()}?mode=rw", uri=True, timeout=0)
    except sqlite3.Error:
        return False
    try:
        connection.execute("PRAGMA locking_mode=EXCLUSIVE")
        connection.execute("BEGIN EXCLUSIVE")
        connection.execute("COMMIT")
        # Leaving the log mode takes that nobody else has the file open.
        connection.execute("PRAGMA journal_mode=DELETE")
    except sqlite3.OperationalError as error:
        return "locked" in str(error)
    except sqlite3.DatabaseError:  # it is damaged, and so nobody's
        return False
    finally:
        connection.close()
    return False


@contextmanager
def _held(lock: Path) -> Iterator[bool]:
    """Hold a lock file while the block runs, if nobody else does; say whether it is held. No folder: nobody does."""
    if not lock.parent.is_dir():
        yield True
        return
    file = FileLock(lock)
    try:
        file.acquire(timeout=0)
    except (Timeout, OSError):
        yield False
        return
    try:
        yield True
    finally:
        file.release()


def _remove_empty(folder: Path) -> None:
    """Remove folders in ``folder`` that hold nothing any more."""
    key: Callable[[Path], int] = lambda path: -len(path.parts)  # noqa: E731
    for path in sorted((each for each in folder.glob("**/*") if each.is_dir() and not each.is_symlink()), key=key):
        with suppress(OSError):
            os.rmdir(path)
