"""The event log of a run: one JSON line for each thing that happened, in the order in which it happened.

| event | fields |
|---|---|
| run_start, resume, run_end | free |
| features | image_encoder_calls, text_encoder_calls, seconds |
| client | stage, round, client, failure ("" if none), loss, accuracy, samples, bytes_up, bytes_down, seconds, *_calls |
| round | stage, round, loss, accuracy, val_accuracy, bytes_up, bytes_down, seconds, clients, failed |
| incident | stage, round, kind (refused, limited, unmerged), client (null: the whole round), why |
| validation | stage, round, seconds, *_calls |
| evaluation | stage, name, local [{client, accuracy, all_classes, items}], local_mean, base, new, hm, *_calls |

In an evaluation, ``accuracy`` is null for a client with one class.
A client whose process had to be started for its work (a site) also has start_seconds.
A stage is one federation inside a run: the method itself, or a baseline (zero_shot, local_only).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from datetime import UTC, datetime
from io import BytesIO
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
"""Bytes of a log that is read."""


class EventLog:
    """Appends to and reads ``path``, which need not exist yet. Reading never changes the file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.listeners: list[Callable[[Event], None]] = []
        """Each is given every event once it is written, as it is read back."""
        self._tail_is_whole = False
        self._hasher, self._hashed = hashlib.sha256(), 0

    def write(self, event: str, **fields: Any) -> None:
        """Append one line, with the time (ISO 8601, UTC); the operating system has it when this returns.

        Raises DiskError if the disk refuses; then no part of the line is there.
        """
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = strict_json.dumps({"event": event, "time": now, **fields})
        self._drop_torn_tail()
        append_bytes(self.path, line.encode() + b"\n")
        for listener in self.listeners:
            listener(json.loads(line))

    def sha256(self, size: int) -> str:
        """Return the SHA-256 of the first ``size`` bytes, empty if there are fewer; what was hashed before is not read
        again."""
        if size < self._hashed:
            self._hasher, self._hashed = hashlib.sha256(), 0
        if size > self._hashed:
            with self.path.open("rb") if self.path.exists() else BytesIO() as file:
                file.seek(self._hashed)
                rest = file.read(size - self._hashed)
            if len(rest) < size - self._hashed:
                return ""
            self._hasher.update(rest)
            self._hashed = size
        return self._hasher.hexdigest()

    def set_aside(self) -> Path:
        """Move the file out of the way, under a name that says so, and begin a new one; return where it is."""
        for number in count(1):
            place = self.path.with_name(f"{self.path.stem}.damaged-{number}{self.path.suffix}")
            if not place.exists():
                break
        if self.path.exists():
            with naming(self.path):
                self.path.rename(place)
        self._hasher, self._hashed, self._tail_is_whole = hashlib.sha256(), 0, False
        return place

    def size(self) -> int:
        """Bytes written so far, once the disk has them: what a checkpoint notes down."""
        if not self.path.exists():
            return 0
        self._drop_torn_tail()
        with naming(self.path), self.path.open("rb") as file:
            os.fsync(file.fileno())
            return file.seek(0, os.SEEK_END)

    def truncate(self, size: int) -> None:
        """Drop what was written after the first ``size`` bytes; a shorter file loses only a torn last line."""
        if self.path.exists():
            # os.truncate would fill up a shorter file with zeros
            with naming(self.path):
                os.truncate(self.path, min(size, self.path.stat().st_size))
            self._tail_is_whole = False
            self._hasher, self._hashed = hashlib.sha256(), 0
            self._drop_torn_tail()

    def read(self) -> list[Event]:
        """All events, oldest first; a torn last line is ignored. Raises RunError naming any other bad line."""
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
        """Cut what a killed writer left after the last line end, lest the next event be glued to it."""
        if self._tail_is_whole:
            return
        self._tail_is_whole = True
        if self.path.exists():
            with naming(self.path):
                data = self.path.read_bytes()
                whole = data.rfind(b"\n") + 1
                if whole < len(data):
                    os.truncate(self.path, whole)
