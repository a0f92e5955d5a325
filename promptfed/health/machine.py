"""The machine: Python, system, devices, threads, and the places that promptfed writes to."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from promptfed.cache_dir import cache_folder, feature_limit
from promptfed.counts import number_of
from promptfed.errors import ConfigError
from promptfed.health.check import Check
from promptfed.threads import available_cpus, load_warning

GIB, GB = 1024**3, 10**9
LITTLE = 2.0
"""Gigabytes of free disk below which a note is made."""


def system_checks() -> Iterator[Check]:
    """Yield promptfed's version, Python and the operating system."""
    try:
        yield Check("machine", "promptfed", "ok", f"{version('promptfed')} in {Path(__file__).parents[1]}")
    except PackageNotFoundError:
        yield Check("machine", "promptfed", "FAIL", "is not installed", "pip install .")
    is_new_enough = sys.version_info >= (3, 11)
    yield Check(
        "machine",
        "Python",
        "ok" if is_new_enough else "FAIL",
        f"{platform.python_version()} in {sys.executable}",
        "" if is_new_enough else "use Python 3.11 or newer",
    )
    yield Check("machine", "system", "ok", f"{platform.system()} {platform.release()} on {platform.machine()}")


def device_checks() -> Iterator[Check]:
    """Yield what torch can use. Loading it takes seconds."""
    try:
        import torch
    except Exception as error:
        why = f"cannot be imported: {type(error).__name__}: {error}"
        yield Check("machine", "torch", "FAIL", why, "pip install --force-reinstall torch")
        return
    build = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "for the CPU alone"
    yield Check("machine", "torch", "ok", f"{torch.__version__}, built {build}")
    cards = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    devices = ["cpu", *(f"cuda:{number} ({name})" for number, name in enumerate(cards))]
    yield Check("machine", "devices", "ok", ", ".join(devices))
    cpus, threads = available_cpus(), torch.get_num_threads()
    yield Check(
        "machine",
        "threads",
        "ok",
        f"{number_of('CPU', cpus)} may be used, torch takes {number_of('thread', min(threads, cpus))}",
    )
    if busy := load_warning(None):
        yield Check("machine", "load", "note", busy)


def place_checks() -> Iterator[Check]:
    """Yield the folders that promptfed writes to, their sizes, and the free disk."""
    from promptfed.runs.plugin_tokens import token_folder
    from promptfed.trust import trust_folder

    cache = cache_folder()
    size = f"{_size(cache) / GB:.2f} GB"
    try:
        yield _place("cache", cache, "PROMPTFED_CACHE", f", {size}; features take {feature_limit() / GB:g} GB at most")
    except ConfigError as error:
        yield Check("places", "cache", "FAIL", f"{cache}, {size}", str(error))
    yield _place("trusted servers", trust_folder(), "PROMPTFED_CONFIG")
    yield _place("state", token_folder().parent, "PROMPTFED_STATE")
    here = Path.cwd()
    for what, folder in (("disk of the cache", _existing(cache)), ("disk of this folder", here)):
        free = shutil.disk_usage(folder).free / GIB
        fix = "free some: promptfed cache clean" if free < LITTLE else ""
        yield Check("places", what, "note" if fix else "ok", f"{free:.1f} GB free at {folder}", fix)


def _place(what: str, folder: Path, variable: str, more: str = "") -> Check:
    """Return whether files can be written in ``folder``, or in what there is of its path."""
    try:
        with tempfile.TemporaryFile(dir=_existing(folder)):
            pass
    except OSError as error:
        why = error.strerror or str(error)
        return Check("places", what, "FAIL", f"{folder}: {why}", f"set {variable} to a folder that can be written to")
    return Check("places", what, "ok", f"{folder}{more}")


def _existing(folder: Path) -> Path:
    folder = folder.expanduser().absolute()
    return next((each for each in (folder, *folder.parents) if each.is_dir()), Path("/"))


def _size(folder: Path) -> int:
    """Return the bytes of all files below ``folder``."""
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(root, name)).st_size
            except OSError:
                continue
    return total
