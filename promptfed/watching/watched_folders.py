"""The runs in the folders that the user names, and those that begin there later."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from promptfed.errors import ConfigError
from promptfed.printable import printable
from promptfed.runs.directory import is_run
from promptfed.watching.followed_run import FollowedRun

DEPTH = 3
"""A run may lie so deep in a named folder: ``runs/COMPARISON/METHOD/seed-0``."""
MOST_RUNS = 300
LOOK_SECONDS = 1.0
NEW_SECONDS = 3.0


class WatchedFolders:
    """Follows all runs in ``folders`` from a thread of its own, between ``start`` and ``stop``.

    Args:
        folders: Runs, or folders with runs. Links inside them are not followed.

    Raises:
        ConfigError: A folder is not there.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        for folder in folders:
            if not folder.is_dir():
                raise ConfigError(f"'{printable(folder)}' is no folder: name a run, or a folder with runs")
        self.folders = list(folders)
        self.lock = threading.Lock()
        self._runs: dict[Path, FollowedRun] = {}
        self._ended = threading.Event()
        self._looked = 0.0
        self._thread = threading.Thread(target=self._follow, name="watch", daemon=True)

    def start(self) -> None:
        """Begin to follow."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._ended.set()

    def runs(self) -> list[FollowedRun]:
        """Return the runs, the newest first. Hold ``lock`` as long as they are looked at."""
        return sorted(self._runs.values(), key=lambda run: (-run.updated, run.name))

    def look(self, now: float) -> None:
        """Read on in every run, and look for new ones if the last look for them was a while ago."""
        if now - self._looked >= NEW_SECONDS:
            self._looked = now
            for path, name in self._all():
                if path not in self._runs and len(self._runs) < MOST_RUNS:
                    with self.lock:
                        self._runs[path] = FollowedRun(path, name)
        for path, run in list(self._runs.items()):
            with self.lock:
                run.update()
                if not path.is_dir():
                    del self._runs[path]

    def _follow(self) -> None:
        while not self._ended.is_set():
            self.look(time.monotonic())
            self._ended.wait(LOOK_SECONDS)

    def _all(self) -> Iterator[tuple[Path, str]]:
        for folder in self.folders:
            if is_run(folder):
                yield folder, folder.resolve().name
            else:
                prefix = f"{folder.resolve().name}/" if len(self.folders) > 1 else ""
                for path in _runs_below(folder, DEPTH):
                    yield path, prefix + path.relative_to(folder).as_posix()


def _runs_below(folder: Path, depth: int) -> Iterator[Path]:
    """Yield the runs below ``folder``, none through a link."""
    try:
        with os.scandir(folder) as entries:
            inner = sorted(e.name for e in entries if e.is_dir(follow_symlinks=False) and not e.name.startswith("."))
    except OSError:
        return
    for name in inner:
        if is_run(folder / name):
            yield folder / name
        elif depth > 1:
            yield from _runs_below(folder / name, depth - 1)
