"""One run as its event log tells it, read on from where the last look ended."""

from __future__ import annotations

import os
import stat
from collections import deque
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, Literal

from promptfed.errors import FormatError
from promptfed.files.processes import is_held
from promptfed.printable import LONGEST, printable
from promptfed.readers.files import MEGABYTE
from promptfed.readers.json_reader import parse_json
from promptfed.runs.directory import LOCK
from promptfed.runs.event_check import event_problem
from promptfed.runs.events import Event
from promptfed.runs.ledger import Cost, cost_of

State = Literal["waiting", "running", "finished", "stopped", "damaged"]
LOG = "events.jsonl"
LONGEST_LINE = 64 * MEGABYTE
MOST_MESSAGES, MOST_CLIENTS = 30, 2_000
QUIET_SECONDS = 20.0
"""A run whose lock nobody holds is over after so many seconds without an event: it may be starting again."""
PATIENCE = 120.0
"""The same where the system does not tell who holds a lock, or the run is on another machine."""
TAIL = 4096
"""Bytes before the place of the last look that must still be there; else the log was cut and written on."""
PREPARING = "before the first event: it loads the model and its data, or a server waits for its sites"
NOTED = {"run_start": "started", "resume": "goes on", "run_end": "finished"}


@dataclass
class ClientState:
    """What one client did last in the stage that is under way, and how much in all."""

    rounds: int = 0
    round: int = 0
    loss: float | None = None
    accuracy: float | None = None
    lost: int = 0
    failure: str = ""
    cost: Cost = field(default_factory=Cost)


@dataclass
class StageState:
    """The rounds of one stage and its clients; ``test`` is its evaluation."""

    rounds: list[Event] = field(default_factory=list)
    clients: dict[int, ClientState] = field(default_factory=dict)
    cost: Cost = field(default_factory=Cost)
    test: Event | None = None
    since: int = 0
    """Replies since the last whole round."""


class FollowedRun:
    """The run in the folder ``path``; ``update`` reads what its log has got since.

    Args:
        path: The folder of the run. Only its event log is read, and never through a link.
        name: What the page calls it.
    """

    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name = path, name
        self._forget()

    def _forget(self) -> None:
        self.config: dict[str, Any] = {}
        self.method = self.current = ""
        self.stages: dict[str, StageState] = {}
        self.features = Cost()
        self.messages: deque[tuple[str, str]] = deque(maxlen=MOST_MESSAGES)
        self.problem = self.stopped = self.last_event = self.last_time = ""
        self.started = self.updated = 0.0
        self._place, self._tail = 0, b""

    # ---------------------------------------------------------------------------------------------- reading

    def update(self) -> bool:
        """Read the events that were added; return whether there were any. A log that was cut is read anew."""
        try:
            with _opened(self.path / LOG) as file:
                self.updated = os.fstat(file.fileno()).st_mtime
                if self._was_cut(file):
                    self._forget()
                    self.updated = os.fstat(file.fileno()).st_mtime
                file.seek(self._place)
                return self._read_on(file)
        except FileNotFoundError:
            return False
        except OSError as error:
            self.problem = f"{LOG} cannot be read: {error.strerror or error}"
            return False

    def _was_cut(self, file: BinaryIO) -> bool:
        if not self._place:
            return False
        file.seek(self._place - len(self._tail))
        return file.read(len(self._tail)) != self._tail

    def _read_on(self, file: BinaryIO) -> bool:
        before = self._place
        while not self.problem and (line := file.readline(LONGEST_LINE)):
            if not line.endswith(b"\n"):
                if len(line) == LONGEST_LINE:
                    self.problem = f"a line of {LOG} is longer than {LONGEST_LINE:,} bytes"
                break
            self._place += len(line)
            self._tail = (self._tail + line)[-TAIL:]
            try:
                event = parse_json(line)
                problem = event_problem(event)
            except FormatError as error:
                problem = f"is not JSON: {error}"
            if problem:
                self.problem = printable(f"a line of {LOG} {problem}", LONGEST)
                break
            self._take(event)
        return self._place > before

    def _take(self, event: Event) -> None:
        kind, self.last_time = event["event"], event["time"]
        if kind != "spent":
            self.last_event = kind
        if "config" in event and isinstance(event["config"], dict):
            self.config = event["config"]
            self.method = str(self.config.get("method") or "")
        elif kind == "run_start":
            self.method = str(event.get("method") or "")
        if kind in NOTED:
            self._say(NOTED[kind])
            self.started = self.started or seconds_of(self.last_time)
            self.stopped = ""
        elif kind == "stopped":
            self.stopped = str(event.get("why") or "")
            self._say(f"stopped: {self.stopped}")
        elif kind == "features":
            self.features += cost_of([event])
        elif "stage" in event:
            self._take_of_stage(kind, event, self.stages.setdefault(event["stage"], StageState()))

    def _take_of_stage(self, kind: str, event: Event, stage: StageState) -> None:
        stage.cost += cost_of([event])
        if kind in ("client", "round"):
            self.current = event["stage"]
        if kind == "client":
            stage.since += 1
            self._take_of_client(event, stage)
        elif kind == "sum" and (client := stage.clients.get(event["client"])):
            client.cost += cost_of([event])
        elif kind == "round":
            stage.rounds.append({k: event.get(k) for k in ("round", "loss", "val_accuracy", "drift", "failed")})
            stage.since = 0
        elif kind == "evaluation":
            stage.test = {k: event.get(k) for k in ("name", "local_mean", "base", "new", "hm")}
        elif kind == "incident":
            who = "the round" if event.get("client") is None else f"client {event['client']}"
            self._say(f"{event['stage']}, round {event.get('round')}: {who} {event['kind']}: {event['why']}")

    def _take_of_client(self, event: Event, stage: StageState) -> None:
        number = event["client"]
        if number not in stage.clients and len(stage.clients) >= MOST_CLIENTS:
            return
        client = stage.clients.setdefault(number, ClientState())
        client.rounds += 1
        client.round, client.failure = event["round"], event.get("failure") or ""
        client.cost += cost_of([event])
        if client.failure:
            client.lost += 1
            self._say(f"{event['stage']}, round {event['round']}: client {number} lost: {client.failure}")
        else:
            client.loss, client.accuracy = event.get("loss"), event.get("accuracy")

    def _say(self, text: str) -> None:
        self.messages.append((self.last_time, printable(text, LONGEST)))

    # ------------------------------------------------------------------------------------------------ state

    def state(self, now: float) -> tuple[State, str]:
        """Return how the run stands at ``now`` (seconds since 1970), and what to say beside it."""
        if self.problem:
            return "damaged", self.problem
        if not self.last_event:
            return ("running", PREPARING) if is_held(self.path / LOCK) else ("waiting", "no event yet")
        if self.last_event == "run_end":
            return "finished", ""
        if self.last_event == "stopped":
            return "stopped", self.stopped
        held, silent = is_held(self.path / LOCK), now - self.updated
        if held or silent < (PATIENCE if held is None else QUIET_SECONDS):
            return "running", ""
        return "stopped", f"no sign of life since {self.last_time[:19].replace('T', ' ')} UTC"

    @property
    def planned(self) -> int:
        """Return the rounds that the method is to do; 0 if the log does not say."""
        rounds = self.config.get("rounds")
        return rounds if isinstance(rounds, int) else 0

    @property
    def main(self) -> StageState:
        """Return the method's own stage, empty before it begins."""
        return self.stages.get(self.method) or StageState()

    def cost(self) -> Cost:
        """Return what the whole run has cost so far."""
        return sum((stage.cost for stage in self.stages.values()), self.features)


def seconds_of(time: str) -> float:
    """Return the seconds since 1970 of an event's time; 0 for one that is none."""
    try:
        return datetime.fromisoformat(time).timestamp()
    except (ValueError, OverflowError, OSError):
        return 0.0


def _opened(path: Path) -> BinaryIO:
    """Open a regular file; a link, a pipe and a device are refused.

    Raises:
        OSError: It is none, or cannot be read.
    """
    number = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    if not stat.S_ISREG(os.fstat(number).st_mode) or path.is_symlink():
        os.close(number)
        raise OSError(f"{LOG} is no file of the run's own")
    return os.fdopen(number, "rb")
