"""The event log of a run: one JSON line for each event, in order of time.

| event | fields |
|---|---|
| run_start, resume, run_end | free |
| features | image_encoder_calls, text_encoder_calls, seconds |
| client | stage, round, client, failure ("" if none), loss, accuracy, samples, bytes_up, bytes_down, seconds, *_calls |
| sum | stage, round, client, bytes_up, bytes_down: what a secure sum cost a client, besides its event ``client`` |
| round | stage, round, loss, accuracy, val_accuracy, drift, bytes_up, bytes_down, seconds, clients, failed |
| incident | stage, round, kind (refused, limited, unmerged), client (null: the whole round), why |
| validation | stage, round, seconds, *_calls |
| evaluation | stage, name, local [{client, accuracy, all_classes, items}], local_mean, base, new, hm, *_calls |

In an evaluation, ``accuracy`` is null for a client with one class.
A client whose process was started for its work (a site) also has start_seconds.
A stage is one federation inside a run: the method itself, or a baseline (zero_shot, local_only).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

from promptfed.errors import FormatError, RunError
from promptfed.files import strict_json
from promptfed.files.atomic import append_bytes, naming
from promptfed.readers.files import MEGABYTE, read_bytes
from promptfed.readers.json_reader import parse_json
from promptfed.runs.event_check import event_problem

Event = dict[str, Any]
LONGEST = 2_000 * MEGABYTE
"""Size limit of a log, in bytes."""
CHUNK = 1 << 20


class EventLog:
    """The log at ``path``, which need not exist yet. Reading never changes the file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.listeners: list[Callable[[Event], None]] = []
        """Each is called with every written event, as it is read back."""
        self._tail_is_whole = False
        self._hasher, self._hashed = hashlib.sha256(), 0

    def write(self, event: str, **fields: Any) -> None:
        """Append one line, with the time (ISO 8601, UTC); the operating system has it when this returns.

        Raises:
            DiskError: The disk refuses; then no part of the line is written.
        """
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = strict_json.dumps({"event": event, "time": now, **fields})
        self._drop_torn_tail()
        append_bytes(self.path, line.encode() + b"\n")
        for listener in self.listeners:
            listener(json.loads(line))

    def sha256(self, size: int) -> str:
        """Return the SHA-256 of the first ``size`` bytes, empty if there are fewer.

        Bytes that were hashed before are not read again.
        """
        if size < self._hashed:
            self._hasher, self._hashed = hashlib.sha256(), 0
        if size > self._hashed:
            if not self.path.exists() or self.path.stat().st_size < size:
                return ""
            with self.path.open("rb") as file:
                file.seek(self._hashed)
                while chunk := file.read(min(CHUNK, size - self._hashed)):
                    self._hasher.update(chunk)
                    self._hashed += len(chunk)
        return self._hasher.hexdigest()

    def set_aside(self) -> Path:
        """Rename the file and begin a new one; return the new path of the old file."""
        for number in count(1):
            target = self.path.with_name(f"{self.path.stem}.damaged-{number}{self.path.suffix}")
            if not target.exists():
                break
        if self.path.exists():
            with naming(self.path):
                self.path.rename(target)
        self._hasher, self._hashed, self._tail_is_whole = hashlib.sha256(), 0, False
        return target

    def size(self) -> int:
        """Return the bytes written so far, once the disk has them: a checkpoint records the number."""
        if not self.path.exists():
            return 0
        self._drop_torn_tail()
        with naming(self.path), self.path.open("rb") as file:
            os.fsync(file.fileno())
            return file.seek(0, os.SEEK_END)

    def truncate(self, size: int) -> None:
        """Drop what was written after the first ``size`` bytes; a shorter file loses only an incomplete last line."""
        if self.path.exists():
            # os.truncate would fill up a shorter file with zeros
            with naming(self.path):
                os.truncate(self.path, min(size, self.path.stat().st_size))
            self._tail_is_whole = False
            self._hasher, self._hashed = hashlib.sha256(), 0
            self._drop_torn_tail()

    def read(self) -> list[Event]:
        """Return all events, oldest first; an incomplete last line is ignored.

        Raises:
            RunError: Another line is bad; the message names it.
        """
        if not self.path.exists():
            return []
        try:
            *lines, _torn = read_bytes(self.path, LONGEST).split(b"\n")
        except (OSError, FormatError) as error:
            raise RunError(f"cannot read {self.path}: {error}") from error
        events: list[Event] = []
        for number, line in enumerate(lines, 1):
            try:
                event = parse_json(line)
            except FormatError as error:
                raise RunError(
                    f"line {number} of {self.path} is not JSON: {error}; delete that line to go on"
                ) from error
            if problem := event_problem(event):
                raise RunError(f"line {number} of {self.path} is not an event: it {problem}; delete that line to go on")
            events.append(event)
        return events

    def _drop_torn_tail(self) -> None:
        """Cut an incomplete last line, as a killed writer leaves it, before the next event is appended."""
        if self._tail_is_whole:
            return
        self._tail_is_whole = True
        if self.path.exists():
            with naming(self.path):
                size, end = self.path.stat().st_size, _end_of_lines(self.path)
                if end < size:
                    os.truncate(self.path, end)


def _end_of_lines(path: Path) -> int:
    """Return the place after the last line break of a file, 0 if there is none; looks from its end, in pieces."""
    with path.open("rb") as file:
        start = file.seek(0, os.SEEK_END)
        while start:
            end, start = start, max(0, start - CHUNK)
            file.seek(start)
            if (place := file.read(end - start).rfind(b"\n")) >= 0:
                return start + place + 1
    return 0
