"""Where commands print: the terminal as wide as it is, files and pipes wide enough that no figure is broken."""

from __future__ import annotations

import os
import sys

from rich.console import Console

PIPE_WIDTH = 160
"""Columns where there is no terminal; rich takes 80 there and wraps tables in mid-figure."""


def output() -> Console:
    """Return the console of results, on standard output."""
    return _console(stderr=False)


def messages() -> Console:
    """Return the console of progress and notes, on standard error."""
    return _console(stderr=True)


def _console(stderr: bool) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() or os.environ.get("COLUMNS", "").isdigit() else PIPE_WIDTH
    return Console(stderr=stderr, width=width)
