"""Consoles of the commands: terminals at their own width, files and pipes wide enough that no figure is broken.

Names come from outside, so markup, emoji codes and control characters in strings have no effect.
"""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from typing import Any

from rich.console import Console
from rich.text import Text

from promptfed.printable import printable_lines

PIPE_WIDTH = 160
"""Columns where there is no terminal; rich takes 80 there and wraps tables in mid-figure."""
NOTEBOOK_WIDTH = 110
"""Columns of a notebook's cell."""


def output() -> Console:
    """Return the console of results, on standard output."""
    return _console(stderr=False)


def messages() -> Console:
    """Return the console of progress and notes, on standard error."""
    return _console(stderr=True)


def _console(stderr: bool) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() or os.environ.get("COLUMNS", "").isdigit() else PIPE_WIDTH
    console = PlainConsole(stderr=stderr, width=width, markup=False, emoji=False, highlight=False)
    if console.is_jupyter:
        console.width = NOTEBOOK_WIDTH
    return console


def draws_bars(console: Console) -> bool:
    """Return whether moving bars can be drawn: on a terminal that is not dumb, and in a notebook that has widgets."""
    return (console.is_terminal and not console.is_dumb_terminal) or (
        console.is_jupyter and find_spec("ipywidgets") is not None
    )


class PlainConsole(Console):
    """Console that shows strings as they are, in cells of tables too, with control characters escaped."""

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(printable_lines(text), **options)
