"""Which images can be decoded: every image is tried once, and the answer is remembered while it stays the same."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from promptfed.cache_dir import cache_folder
from promptfed.errors import DataError
from promptfed.examples import pixels
from promptfed.examples.base import FileItem, ImageItem, Sample
from promptfed.files.atomic import PRIVATE, write_bytes
from promptfed.readers.json_reader import JsonLimits, read_json

MEMORY = JsonLimits(size=500_000_000, values=8_000_000)
"""Of the answers of one collection in our own cache: a million images."""
THREADS = min(8, os.cpu_count() or 1)


def file_stamp(item: ImageItem) -> str:
    """Size in bytes and time of last change of a file: a file with the same stamp is not decoded again."""
    assert isinstance(item, FileItem)
    try:
        status = item.path.stat()
    except (OSError, ValueError):
        return "missing"
    return f"{status.st_size}-{status.st_mtime_ns}-{status.st_mode}"


@dataclass(frozen=True)
class ImageCheck:
    """Result of one look at an image.

    It is why it cannot be used (empty if it can), what was done to its values, and its content id.
    """

    fault: str = ""
    note: str = ""
    content_id: str = ""


@dataclass(frozen=True)
class CheckedImages:
    """Samples that can be decoded, and their content ids.

    The names of those that cannot are listed, with notes for their owner.
    """

    samples: tuple[Sample, ...]
    skipped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    content_ids: tuple[str, ...] = ()


def keep_readable(
    collection: str, samples: Sequence[Sample], strict: bool, stamp: Callable[[ImageItem], str] = file_stamp
) -> CheckedImages:
    """Look at every image of ``samples`` that is not known to be the same as at an earlier look.

    ``collection`` names the remembered answers (a folder's path, say). With ``strict`` an image that cannot be
    decoded raises DataError that names it.
    """
    rules = f"{pixels.RULES}|{os.environ.get('PROMPTFED_IMAGE_MB', '')}|{collection}"
    memory = cache_folder() / "readable" / f"{hashlib.sha256(os.fsencode(rules)).hexdigest()[:32]}.json"
    checks = recall(memory)
    images = {sample.item.key: sample.item for sample in samples if isinstance(sample.item, ImageItem)}
    stamps = {key: stamp(image) for key, image in images.items()}
    unsure = {key: image for key, image in images.items() if key not in checks or checks[key][0] != stamps[key]}
    if unsure:
        checks |= {key: (stamps[key], looked) for key, looked in look_at_all(unsure).items()}
        checks = {key: checks[key] for key in images}
        remember(memory, checks)
    readable: list[Sample] = []
    bad: dict[str, str] = {}
    for sample in samples:
        if isinstance(sample.item, ImageItem) and (fault := checks[sample.item.key][1].fault):
            bad.setdefault(sample.item.name, fault)
        else:
            readable.append(sample)
    if bad and strict:
        more = f" ({len(bad)} unreadable images in all)" if len(bad) > 1 else ""
        first = next(iter(bad.values()))
        raise DataError(f"{first}{more}; repair or remove it, or run without --strict to skip it")
    looks = [(s.item.name, checks[s.item.key][1]) for s in readable if isinstance(s.item, ImageItem)]
    return CheckedImages(
        tuple(readable), tuple(bad), grouped_notes(looks), tuple(looked.content_id for _, looked in looks)
    )


def look_at_all(images: Mapping[str, ImageItem]) -> dict[str, ImageCheck]:
    """Check small images several at a time, then the large ones one by one.

    Large ones are read in the main thread, since every thread keeps some of the memory that it once had.
    """
    with ThreadPoolExecutor(THREADS) as pool:
        checks = dict(zip(images, pool.map(look_at_small, images.values()), strict=True))
    return {key: looked or look_at(images[key]) for key, looked in checks.items()}


def look_at_small(item: ImageItem) -> ImageCheck | None:
    """As ``look_at``; None for a large image, which is not decoded."""
    try:
        return None if item.is_large() else look_at(item)
    except DataError:
        return look_at(item)


def look_at(item: ImageItem) -> ImageCheck:
    """Decode ``item`` once, for what can be said about it."""
    try:
        return ImageCheck(note=item.examine(), content_id=item.content_id())
    except DataError as error:
        return ImageCheck(fault=" ".join(str(error).split()))


def grouped_notes(looks: Sequence[tuple[str, ImageCheck]]) -> tuple[str, ...]:
    """One line for each kind of note, with the number of images and the first of them."""
    names: dict[str, list[str]] = {}
    for name, looked in looks:
        if looked.note:
            names.setdefault(looked.note, []).append(name)
    return tuple(f"of {len(group)} images ({group[0]} is the first) {note}" for note, group in names.items())


def recall(memory: Path) -> dict[str, tuple[str, ImageCheck]]:
    """Image key -> its stamp and what was seen; empty if nothing (or nothing usable) is remembered."""
    try:
        entries = read_json(memory, MEMORY)
        return {key: (str(stamp), ImageCheck(*map(str, looked))) for key, (stamp, *looked) in entries.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def remember(memory: Path, known: Mapping[str, tuple[str, ImageCheck]]) -> None:
    """Write whole or not at all, so that a run alongside never reads half a file. A read-only cache is no error."""
    entries = {key: [stamp, looked.fault, looked.note, looked.content_id] for key, (stamp, looked) in known.items()}
    try:
        memory.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(memory, json.dumps(entries).encode(), PRIVATE)
    except OSError:
        return
