"""The folder of one run, and the lock on it.

config.yaml        all options; repeats the run
events.jsonl       what happened (promptfed.runs.events)
metrics.json       final figures and cost
privacy.json       what the run promises those who hold the data
releases.json      of a private run: all that was released; privacy.key is its secret
details.json       what the report shows besides figures (promptfed.run_details)
partition.json     the examples of each client; of very many, their rows are in clients.safetensors
checkpoints/       of the method; those of a baseline are in baselines/<stage>/checkpoints/
personalized/      output of promptfed personalize for each client (promptfed.runs.personalized)
report.html, run.log
"""

from __future__ import annotations

import os
import re
import shlex
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from promptfed.config import RunConfig, build_config, read_yaml
from promptfed.errors import FormatError, RunError
from promptfed.files.atomic import LEFTOVER_SUFFIX, naming, remove_drafts, write_bytes, write_text
from promptfed.files.processes import describe_holder
from promptfed.files.sealed_json import opened_json, sealed_json
from promptfed.printable import printable
from promptfed.readers.files import MEGABYTE, kind_of, read_bytes
from promptfed.runs.checkpoint import tidy_checkpoints
from promptfed.runs.events import EventLog
from promptfed.runs.run_log import attach_run_log

BUNDLE_CONFIG = "promptfed_config.json"
"""The file that makes a folder a bundle (``promptfed.export``), and no run."""
LOCK = ".lock"
PERSONALIZED = "personalized"
DETAILS = "details.json"
DEPLOYMENT = "deployment.json"
"""What the server of a run whose data are at sites stores (``promptfed.deployment.known_sites``)."""
FILES = (
    "config.yaml", "metrics.json", "partition.json", "clients.safetensors", "run.json", DEPLOYMENT,
    "report.html", "init.safetensors", "privacy.json", "releases.json", DETAILS,
)  # fmt: skip
"""Files of a run that are read, and written by putting a new one in the place of the old."""
FILES_WRITTEN_IN_PLACE = ("events.jsonl", "run.log", LOCK, "oracle.sqlite", "oracle.sqlite-wal", "oracle.sqlite-shm")
"""Files of a run that are appended to or cut in place: behind a link that would change another file."""
RUNS = Path("runs")
"""Folder of runs without a given folder, below the current directory."""

MOST_BYTES = 64 * MEGABYTE
"""Size limit of a JSON file of a run."""


class RunDirectory:
    """Paths and files of one run. Get one by ``create`` (a new run) or ``open`` (an existing one)."""

    def __init__(self, path: Path, config: RunConfig) -> None:
        self.path, self.config = path, config
        self.events = EventLog(path / "events.jsonl")

    def __repr__(self) -> str:
        return f"<run directory {str(self.path)!r}: {self.config.method} on {self.config.data}>"

    @classmethod
    def create(cls, path: Path | None, config: RunConfig, *, label: str) -> RunDirectory:
        """Start a run in ``path``, or with None in a fresh folder ``runs/<date-time>-<label>``.

        Raises:
            RunError: ``path`` is a file, holds anything, or cannot be written.
        """
        folder = None
        try:
            folder = _fresh_folder(label) if path is None else _given_folder(path)
            write_text(folder / "config.yaml", config.to_yaml())
        except OSError as error:
            if folder is not None:
                with suppress(OSError):
                    (folder / "config.yaml").unlink(missing_ok=True)
                    folder.rmdir()
            raise RunError(f"cannot create run directory '{path or RUNS}': {error.strerror or error}") from error
        return cls(folder, config)

    @classmethod
    def open(cls, path: Path) -> RunDirectory:
        """Open an existing run.

        Raises:
            RunError: There is none at ``path``, or one of its files is a link to another place, a folder, a pipe or a
                device: it may be a stranger's.
        """
        if not path.is_dir():
            raise RunError(f"run directory '{path}' does not exist; `promptfed list runs` shows the runs there are")
        if not is_run(path):
            if (path / BUNDLE_CONFIG).is_file():
                raise RunError(
                    f"'{path}' is a bundle, not a run: promptfed predict asks it (in Python promptfed.load); a run is "
                    "what promptfed train makes"
                )
            raise RunError(
                f"'{path}' is not a run directory: it has no config.yaml; `promptfed list runs` shows those that are"
            )
        _check_files(path)
        return cls(path, build_config(read_yaml(path / "config.yaml")))

    def discard(self) -> None:
        """Remove what ``create`` made, for a run that fails before it starts; a folder with checkpoints stays."""
        if not list(self.path.glob("**/checkpoints")):
            with suppress(OSError):
                for name in ("config.yaml", "init.safetensors", "run.log", ".lock", "events.jsonl"):
                    (self.path / name).unlink(missing_ok=True)
                self.path.rmdir()

    def tidy(self) -> None:
        """Remove what killed or failed writers left over. Hold the run's lock. Raises DiskError."""
        for folder in (self.path, self.path / PERSONALIZED):
            remove_drafts(folder)
        for folder in (self.path / "checkpoints", *self.path.glob("baselines/*/checkpoints")):
            tidy_checkpoints(folder)

    def reconfigure(self, config: RunConfig) -> None:
        """Go on with other options that do not change the results."""
        write_text(self.path / "config.yaml", config.to_yaml())
        self.config = config

    def stage_folder(self, stage: str, is_baseline: bool) -> Path:
        """Return the folder of a stage's checkpoints; the first checkpoint makes it."""
        return self.path / "baselines" / stage / "checkpoints" if is_baseline else self.path / "checkpoints"

    # ------------------------------------------------------------------------------------------------ files

    def write_json(self, name: str, value: dict[str, Any]) -> None:
        """Write ``name`` with a checksum, whole or not at all; NaN and infinities become null. Raises DiskError."""
        write_bytes(self.path / name, sealed_json(value))

    def read_json(self, name: str) -> dict[str, Any] | None:
        """Read ``name``; None if the file is absent.

        Raises:
            RunError: The file differs from what was written; the message names it.
        """
        path = self.path / name
        if not path.exists():
            return None
        try:
            return opened_json(read_bytes(path, MOST_BYTES))
        except (OSError, FormatError) as error:
            raise RunError(f"cannot use {path}: {error}") from error

    def remove(self, name: str) -> None:
        """Delete ``name`` if it is there. Raises DiskError if the disk refuses."""
        with naming(self.path / name):
            (self.path / name).unlink(missing_ok=True)

    def write_metrics(self, metrics: dict[str, Any]) -> None:
        self.write_json("metrics.json", metrics)

    def read_metrics(self) -> dict[str, Any] | None:
        return self.read_json("metrics.json")

    # ---------------------------------------------------------------------------------------- while running

    @contextmanager
    def lock(self, patience: float = 0.0) -> Iterator[None]:
        """Hold the run for this process; freed even by kill -9.

        Raises RunError if another one holds it, for longer than ``patience`` seconds.
        """
        lock = FileLock(self.path / LOCK)
        try:
            lock.acquire(timeout=patience)
        except Timeout as error:
            raise RunError(
                f"run '{self.path}' is in use by {describe_holder(self.path / LOCK)}; wait until it ends, or stop it "
                "first"
            ) from error
        except OSError as error:
            raise RunError(f"cannot lock run '{self.path}': {error.strerror or error}") from error
        try:
            yield
        finally:
            lock.release()

    def attach_log(self) -> ExitStack:
        """Copy the messages of logger "promptfed" to run.log until the result is closed (or its ``with`` is left).

        Raises DiskError if the file cannot be opened; a line that the disk refuses later is left out.
        """
        return attach_run_log(self.path / "run.log")


def is_run(path: Path) -> bool:
    """Return whether ``path`` is the folder of a run."""
    return (path / "config.yaml").is_file()


def _check_files(path: Path) -> None:
    """Raise RunError if a file of the run in ``path`` is no regular file, or is a link where links do harm."""
    for name in (*FILES, *FILES_WRITTEN_IN_PLACE):
        file = path / name
        try:
            mode = os.stat(file, follow_symlinks=name not in FILES_WRITTEN_IN_PLACE).st_mode
        except FileNotFoundError:
            continue
        except OSError as error:
            raise RunError(f"cannot read {printable(file)}: {error.strerror or error}") from error
        if not stat.S_ISREG(mode):
            raise RunError(
                f"{printable(file)} is {kind_of(mode)}, not a file of the run's own: remove it, or put the file "
                "itself in its place"
            )


def _fresh_folder(label: str) -> Path:
    """Make a new folder; two runs started in the same second get different ones."""
    stem = f"{datetime.now():%Y%m%d-%H%M%S}-{re.sub(r'[^A-Za-z0-9._-]+', '-', label)}"
    RUNS.mkdir(exist_ok=True)
    for number in count(1):
        folder = RUNS / (stem if number == 1 else f"{stem}-{number}")
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        return folder
    raise AssertionError("count() does not end")


def _given_folder(path: Path) -> Path:
    if path.exists() and not path.is_dir():
        raise RunError(f"run directory '{path}' is a file; choose another --run DIR")
    if path.is_dir():
        if is_run(path):
            raise RunError(
                f"run directory '{path}' holds a run already; go on with --resume {shlex.quote(str(path))}, or choose "
                "another --run DIR"
            )
        # a run killed before its config.yaml was in place leaves only a partial file: that folder is free
        if any(not entry.name.endswith(LEFTOVER_SUFFIX) for entry in path.iterdir()):
            raise RunError(
                f"run directory '{path}' is not empty and not a run; choose another --run DIR "
                f"(to go on with an earlier run: --resume PATH)"
            )
    path.mkdir(parents=True, exist_ok=True)
    return path
