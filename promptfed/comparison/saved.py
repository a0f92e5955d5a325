"""A comparison as its folder keeps it, to write its page and tables anew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from promptfed.comparison.differences import with_differences
from promptfed.errors import FormatError, RunError
from promptfed.printable import printable
from promptfed.readers.content import expected_content
from promptfed.readers.files import MEGABYTE, read_bytes
from promptfed.readers.json_reader import parse_json

FILE = "comparison.json"
MOST_BYTES = 64 * MEGABYTE


def is_comparison(folder: Path) -> bool:
    """Return whether ``folder`` is that of a comparison which has written its tables."""
    return (folder / FILE).is_file()


def read_comparison(folder: Path) -> dict[str, Any]:
    """Return the content of comparison.json; an earlier version's gets the intervals and tests that it lacks.

    Raises:
        RunError: The file cannot be read.
        FormatError: It does not hold a comparison.
    """
    path = folder / FILE
    try:
        summary = parse_json(read_bytes(path, MOST_BYTES))
    except (OSError, FormatError) as error:
        raise RunError(f"cannot use {printable(path)}: {error}") from error
    with expected_content(f"the entries of {printable(path)}"):
        return with_differences(summary)
