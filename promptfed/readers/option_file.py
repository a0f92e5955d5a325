"""Files that an option of a method names: read once, when a run is set up."""

from __future__ import annotations

from pathlib import Path

from promptfed.errors import ConfigError, FormatError
from promptfed.printable import printable
from promptfed.readers.text import filled_lines


def option_lines(option: str, file: str) -> list[str]:
    """Return the filled lines of a file.

    Args:
        option: The name of the option, for the message.
        file: "file:PATH", as the option names it.

    Raises:
        ConfigError: The file cannot be read.
    """
    try:
        return filled_lines(Path(file.removeprefix("file:")).expanduser())
    except (OSError, FormatError) as error:
        raise ConfigError(f"{option} '{printable(file, 200)}' cannot be read: {error}") from error
