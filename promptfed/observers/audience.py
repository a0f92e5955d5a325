"""The observers of one run, told of its events without ever being able to stop it or to hold it up."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from queue import SimpleQueue
from typing import Any

from promptfed.errors import RunError, reason
from promptfed.observers.base import Observer, RunDescription, RunOutcome, RunState, flat_options
from promptfed.observers.scalars import ScalarReader
from promptfed.printable import LONGEST, printable, without_password
from promptfed.progress import ComparisonProgress, Progress
from promptfed.runs.directory import RunDirectory
from promptfed.runs.events import Event
from promptfed.stderr_log import TOLD

log = logging.getLogger(__name__)
PATIENCE = 60.0
"""Seconds that the end of a run waits for its observers, all of them together."""
HURRY = 5.0
"""The same limit after a second Ctrl-C."""
Say = Callable[[str], None]


class Seat:
    """One observer and the thread that tells it."""

    def __init__(self, observer: Observer) -> None:
        self.observer = observer
        self.problem = self.place = ""
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=f"observer {observer.label}", daemon=True)
        self._thread.start()

    def begin(self, run: RunDescription) -> None:
        """Begin with ``run``, as soon as the thread comes to it."""

        def call() -> None:
            self.place = self.observer.begin(run) or ""

        self._calls.put(call)

    def tell(self, hook: Callable[..., None], *values: Any) -> None:
        """Call ``hook`` with ``values`` after all that was told before."""
        self._calls.put(lambda: hook(*values))

    def close(self, state: RunState) -> None:
        """Close the observer after all that was told before, and let the thread end."""
        self.tell(self.observer.close, state)
        self._calls.put(None)

    def is_done(self, seconds: float) -> bool:
        """Wait for the thread's end; False if ``seconds`` were not enough."""
        self._thread.join(max(0.0, seconds))
        return not self._thread.is_alive()

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            if self.problem:
                continue
            try:
                call()
            except BaseException as error:  # a plug-in's tracker may raise anything, SystemExit too
                with suppress(BaseException):
                    self.observer.close("failed")
                self.problem = f"{type(error).__name__}: {reason(error)}"


class Audience:
    """Tells several observers; ``watch`` makes one.

    Args:
        folder: The run, with all that its event log holds.
        name: What trackers call it.
        identity: What the run is known by.
        observers: Who is told.
        note: Is given a line for each place where a record can be seen.
        warn: Is given one line for each observer that is left out.
    """

    def __init__(
        self, folder: RunDirectory, name: str, identity: str, observers: Sequence[Observer], *, note: Say, warn: Say
    ) -> None:
        self.folder, self.name, self.identity, self.note, self.warn = folder, name, identity, note, warn
        self._seats = [Seat(observer) for observer in observers]
        self._reader = ScalarReader()
        self._is_begun = False
        self._noted: set[Seat] = set()
        self._left_out: set[Seat] = set()

    def event(self, event: Event) -> None:
        """Tell of ``event``, which the log has by now. The first one begins the record."""
        if not self._is_begun:
            self._is_begun = True
            self._begin(event)
        scalars = self._reader.read(event)
        for seat in self._seats:
            seat.tell(seat.observer.event, event)
            if scalars is not None:
                seat.tell(seat.observer.log, scalars)
        self._speak()

    def end(self, outcome: RunOutcome) -> None:
        """Tell how the run ended."""
        for seat in self._seats:
            seat.tell(seat.observer.end, outcome)

    def close(self, state: RunState, patience: float = PATIENCE) -> None:
        """Let all observers finish, and wait for them for ``patience`` seconds."""
        for seat in self._seats:
            seat.close(state)
        until = time.monotonic() + patience
        for seat in self._seats:
            if not seat.is_done(until - time.monotonic()) and not seat.problem:
                seat.problem = f"it has not finished within {patience:.0f} s"
        self._speak()

    def _begin(self, first: Event) -> None:
        past: list[Event] = []
        if first["event"] == "resume":
            with suppress(RunError):
                past = self.folder.events.read()[:-1]
        scalars = tuple((event, self._reader.read(event)) for event in past)
        options = flat_options(self.folder.config.model_dump(mode="json"))
        path = self.folder.path.resolve()
        for seat in self._seats:
            seat.begin(RunDescription(self.identity, self.name or path.name, path, options, scalars))

    def _speak(self) -> None:
        """Say in this thread what the others have come to."""
        for seat in self._seats:
            if seat.place and seat not in self._noted:
                self._noted.add(seat)
                self.note(f"{seat.observer.label}: {printable(without_password(seat.place), LONGEST)}")
            if seat.problem and seat not in self._left_out:
                self._left_out.add(seat)
                why = printable(without_password(seat.problem), LONGEST)
                self.warn(f"observer '{seat.observer.label}' is left out: {why}")


def warner(progress: Progress) -> Say:
    """Return what warns of an observer: in run.log, and once to whoever watches."""

    def warn(line: str) -> None:
        is_silent = type(progress) in (Progress, ComparisonProgress)
        log.warning(line, extra={} if is_silent else TOLD)
        progress.note(f"note: {line}")

    return warn


@contextmanager
def watch(
    folder: RunDirectory,
    identity: str,
    observers: Sequence[Observer],
    *,
    note: Say,
    warn: Say,
    stop: type[Exception],
    name: str = "",
) -> Iterator[Audience]:
    """Tell ``observers`` of all that is written to the log of the run in ``folder`` until the block is left.

    ``stop`` is raised by a run that is asked to stop and can go on later; any other exception is a failure. Trackers
    call the run ``name``, by default as its folder.
    """
    audience = Audience(folder, name, identity, observers, note=note, warn=warn)
    if not observers:
        yield audience
        return
    folder.events.listeners.append(audience.event)
    state: RunState = "failed"
    patience = PATIENCE
    try:
        yield audience
        state = "finished"
    except stop:
        state = "stopped"
        raise
    except KeyboardInterrupt:
        state, patience = "stopped", HURRY
        raise
    finally:
        folder.events.listeners.remove(audience.event)
        audience.close(state, patience)
