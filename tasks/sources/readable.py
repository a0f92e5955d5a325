"""Which images can be decoded: every image is tried once, and the answer is remembered while it stays the same."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import platformdirs

from promptfed.errors import DataError
from promptfed.tasks.sources.base import FileItem, ImageItem, Sample

THREADS = min(8, os.cpu_count() or 1)


def cache_folder() -> Path:
    """Where promptfed keeps what it can compute again: ``PROMPTFED_CACHE``, else the user's cache folder."""
    return Path(os.environ.get("PROMPTFED_CACHE") or platformdirs.user_cache_dir("promptfed"))


def file_stamp(item: ImageItem) -> str:
    """Size in bytes and time of last change of a file: a file with the same stamp is not decoded again."""
    assert isinstance(item, FileItem)
    try:
        status = item.path.stat()
    except OSError:
        return "missing"
    return f"{status.st_size}-{status.st_mtime_ns}"


def keep_readable(
    collection: str, samples: Sequence[Sample], strict: bool, stamp: Callable[[ImageItem], str] = file_stamp
) -> tuple[tuple[Sample, ...], tuple[str, ...]]:
    """The samples that can be decoded, and the names of those that cannot.

    ``collection`` names the remembered answers (a folder's path, say). With ``strict`` an image that cannot be
    decoded raises DataError that names it.
    """
    memory = cache_folder() / "readable" / f"{hashlib.sha256(collection.encode()).hexdigest()[:32]}.json"
    known = recall(memory)
    images = [sample.item for sample in samples if isinstance(sample.item, ImageItem)]
    stamps = {image.name: stamp(image) for image in images}
    unsure = {i.name: i for i in images if known.get(i.name, ["", ""])[0] != stamps[i.name]}
    if unsure:
        with ThreadPoolExecutor(THREADS) as pool:
            faults = dict(zip(unsure, pool.map(fault_of, unsure.values()), strict=True))
        known = {name: [stamps[name], faults[name] if name in faults else known[name][1]] for name in stamps}
        remember(memory, known)
    bad = tuple(dict.fromkeys(s.item.name for s in samples if known[s.item.name][1]))
    if bad and strict:
        more = f" ({len(bad)} unreadable images in all)" if len(bad) > 1 else ""
        raise DataError(f"{known[bad[0]][1]}{more}; repair or remove it, or run without --strict to skip it")
    gone = set(bad)
    return tuple(s for s in samples if s.item.name not in gone), bad


def fault_of(item: ImageItem) -> str:
    """Why ``item`` cannot be decoded; empty if it can."""
    try:
        item.load()
    except DataError as error:
        return " ".join(str(error).split())
    return ""


def recall(memory: Path) -> dict[str, list[str]]:
    """Image name -> [stamp, fault]; empty if nothing (or nothing usable) is remembered."""
    try:
        found = json.loads(memory.read_text())
    except (OSError, ValueError):
        return {}
    entries = found.items() if isinstance(found, dict) else ()
    return {name: entry for name, entry in entries if isinstance(entry, list) and len(entry) == 2}


def remember(memory: Path, known: Mapping[str, Sequence[str]]) -> None:
    """Write whole or not at all, so that a run alongside never reads half a file. A read-only cache is no error."""
    try:
        memory.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=memory.parent, suffix=".part", delete=False) as part:
            json.dump(known, part)
        os.replace(part.name, memory)
    except OSError:
        return
