"""run.log: what the loggers below "promptfed" say while a run is under way.

The program around promptfed may log as well. Its handlers get what they get without a run: lines that are made for
run.log alone, those of level INFO, do not reach them unless the program itself asked for that level.
"""

from __future__ import annotations

import logging
import threading
from contextlib import ExitStack, suppress
from pathlib import Path

from promptfed.files.atomic import naming
from promptfed.printable import printable_lines

LOGGER = logging.getLogger("promptfed")
FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class _Listening:
    """How many logs of runs listen to the logger, which is more talkative while one does, and what it was before."""

    def __init__(self) -> None:
        self.count, self.lock = 0, threading.RLock()
        self.level, self.propagate = logging.NOTSET, True
        self.gate, self.others = _Gate(self), list[logging.Handler]()

    def begin(self) -> None:
        """Have the logger pass on INFO."""
        with self.lock:
            self.count += 1
            if self.count > 1:
                return
            self.level, self.propagate, self.others = LOGGER.level, LOGGER.propagate, list(LOGGER.handlers)
            for handler in self.others:
                handler.addFilter(self.is_usual)
            LOGGER.addHandler(self.gate)
            LOGGER.propagate = False
            LOGGER.setLevel(min(self.level, logging.INFO) or logging.INFO)

    def end(self) -> None:
        """Leave the logger as it was, after the last of several logs."""
        with self.lock:
            self.count -= 1
            if self.count:
                return
            LOGGER.setLevel(self.level)
            LOGGER.propagate = self.propagate
            LOGGER.removeHandler(self.gate)
            for handler in self.others:
                handler.removeFilter(self.is_usual)

    def is_usual(self, record: logging.LogRecord) -> bool:
        """Return whether the logger passes ``record`` on without a run."""
        return record.levelno >= (self.level or logging.getLogger().getEffectiveLevel())


class _Gate(logging.Handler):
    """Hands on to the loggers above what they would have got without a run."""

    def __init__(self, listening: _Listening) -> None:
        super().__init__()
        self._listening = listening

    def emit(self, record: logging.LogRecord) -> None:
        above = logging.getLogger()
        if self._listening.propagate and above.handlers and self._listening.is_usual(record):
            above.callHandlers(record)


_listening = _Listening()


def attach_run_log(path: Path) -> ExitStack:
    """Copy the messages of logger "promptfed" to the file ``path`` until the result is closed (its ``with`` is left).

    Raises DiskError if the file cannot be opened; a line that the disk refuses later is left out.
    """
    with naming(path):
        handler = QuietFileHandler(path, encoding="utf-8")
    handler.setFormatter(PlainFormatter(FORMAT))
    stack = ExitStack()
    stack.callback(handler.close)
    _listening.begin()
    stack.callback(_listening.end)
    LOGGER.addHandler(handler)
    stack.callback(LOGGER.removeHandler, handler)
    return stack


class QuietFileHandler(logging.FileHandler):
    """Writes to a file; what the disk refuses is left out, for the run itself will say so."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (the name that logging calls)
        """Say nothing."""

    def close(self) -> None:
        """Close the file, whatever the disk says."""
        with suppress(OSError):
            super().close()


class PlainFormatter(logging.Formatter):
    """Lines of a log whose control characters are escaped: names in it come from outside."""

    def format(self, record: logging.LogRecord) -> str:
        return printable_lines(super().format(record))
