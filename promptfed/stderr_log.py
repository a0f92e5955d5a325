"""Warnings of the logger "promptfed" on stderr, while the command line runs.

A run copies its log to run.log. Python shows a warning by itself only where no logger has a handler, so a warning
would be seen by the file and not by the user.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from promptfed.printable import printable_lines

TOLD = {"is_told": True}
"""``extra=TOLD`` marks a message that the user is told in another way as well; it is left out here."""


class StderrHandler(logging.Handler):
    """Prints a message as ``note: ...`` to what ``sys.stderr`` is at that moment, which a live display may replace."""

    def emit(self, record: logging.LogRecord) -> None:
        if getattr(record, "is_told", False):
            return
        with suppress(OSError, ValueError):  # a closed stderr
            print(f"note: {printable_lines(record.getMessage())}", file=sys.stderr, flush=True)


@contextmanager
def quieted(name: str, level: int) -> Iterator[None]:
    """Let the logger ``name`` pass nothing below ``level`` until the block is left."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(level)
    try:
        yield
    finally:
        logger.setLevel(before)


@contextmanager
def warnings_on_stderr() -> Iterator[None]:
    """Print warnings of the logger "promptfed" until the block is left."""
    logger, handler = logging.getLogger("promptfed"), StderrHandler(logging.WARNING)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
