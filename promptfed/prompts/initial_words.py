"""Check of the words that a context starts from: the name of a file or a run in their place is refused."""

from __future__ import annotations

import re
from pathlib import Path

from promptfed.errors import ConfigError
from promptfed.printable import LONGEST, printable

FILE_ENDINGS = re.compile(r"\.(pt|pth|ckpt|bin|safetensors|json|ya?ml|txt|npy|npz)$", re.IGNORECASE)
MARKS = ("config.yaml", "promptfed_config.json")
"""Files by which the folder of a run and that of a bundle are known."""


def check_initial_words(words: str) -> None:
    """Raise ConfigError if ``words`` name a file, a run or a bundle, or look like a path."""
    if not (kind := _kind_of_path(words)):
        return
    raise ConfigError(
        f"option 'init' is '{printable(words, LONGEST)}', {kind}: it takes words to start from, such as "
        "--set method.init='a photo of a', and reads no file; promptfed eval and export read a run"
    )


def _kind_of_path(words: str) -> str:
    """Return what kind of path ``words`` are; empty if they are words."""
    if not words.strip():  # the path "" is the current folder, which may be a run
        return ""
    try:
        places = [Path(words).expanduser(), Path("runs") / words]
        if any((folder / mark).is_file() for folder in places for mark in MARKS):
            return "the name of a run or a bundle"
        if places[0].is_file():
            return "the name of a file"
    except (OSError, ValueError, RuntimeError):  # too long, a null byte, no home: no path
        pass
    one_word = not re.search(r"\s", words)
    if one_word and (re.search(r"[/\\]", words) or FILE_ENDINGS.search(words)):
        return "a path"
    return ""
