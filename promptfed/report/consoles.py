"""Where commands print: the terminal as wide as it is, files and pipes wide enough that no figure is broken.

Names come from outside, so no markup, emoji code or control character in a string is obeyed.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from rich.console import Console
from rich.text import Text

from promptfed.printable import printable_lines

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
    return PlainConsole(stderr=stderr, width=width, markup=False, emoji=False, highlight=False)


class PlainConsole(Console):
    """Strings are shown as they are, in cells of tables too: control characters are escaped."""

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(printable_lines(text), **options)
