"""A prompt library: short text prompts that runs ended with, for what task and model, and how much is behind them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from promptfed.errors import ConfigError, FormatError
from promptfed.files.atomic import write_text
from promptfed.printable import printable
from promptfed.readers.json_reader import parse_json
from promptfed.readers.text import filled_lines
from promptfed.records.injections import injection
from promptfed.records.record import MOST_SUPPORT

LONGEST_PROMPT, LONGEST_NAME = 2000, 200
"""Characters of a prompt, and of what says what it is for."""
MOST_ENTRIES = 5000
MOST_RUNS = 1000
_TEXTS, _NUMBERS = ("task", "model", "prompt"), ("examples", "clients")


@dataclass(frozen=True)
class Entry:
    """One prompt of a library.

    Attributes:
        task: What it is for, in a sentence.
        model: The name of the black box that it was found with.
        prompt: The prompt, one line.
        examples: Training examples of the clients behind it.
        clients: How many clients are.
        runs: Digests of the runs, so that none counts twice.
    """

    task: str
    model: str
    prompt: str
    examples: int
    clients: int
    runs: tuple[str, ...]

    def line(self) -> str:
        """Return the entry as one line of JSON."""
        return json.dumps({**vars(self), "runs": list(self.runs)}, ensure_ascii=False)


def refusal(entry: Entry) -> str:
    """Return why ``entry`` must not stand in a library; "" if nothing is wrong with it."""
    lengths = {"task": LONGEST_NAME, "model": LONGEST_NAME, "prompt": LONGEST_PROMPT}
    for name, longest in lengths.items():
        text = getattr(entry, name)
        if not text.strip():
            return f"an empty {name}"
        if "\n" in text or "\r" in text:
            return f"a {name} of several lines"
        if len(text) > longest:
            return f"a {name} of {len(text):,} characters, where {longest:,} are allowed"
        if not text.isprintable():
            return f"a {name} with hidden or control characters"
        if why := injection(text):
            return f"{why} in its {name}"
    return ""


def read_library(path: Path) -> tuple[list[Entry], list[str]]:
    """Return the entries of a library that may be used, and why each other line is refused.

    Raises:
        ConfigError: The file cannot be read, or is too long for a library.
    """
    try:
        lines = filled_lines(path)
    except (OSError, FormatError) as error:
        raise ConfigError(f"library '{printable(path)}' cannot be read: {error}") from error
    if len(lines) > MOST_ENTRIES:
        raise ConfigError(f"library '{printable(path)}' has {len(lines):,} lines, where {MOST_ENTRIES:,} are allowed")
    entries, refused = [], []
    for line in lines:
        entry = _parsed(line)
        why = "a line that is no entry" if entry is None else refusal(entry)
        if entry is not None and not why:
            entries.append(entry)
        else:
            refused.append(why)
    return entries, refused


def _parsed(line: str) -> Entry | None:
    try:
        fields = parse_json(line, any_strings=True)
    except FormatError:
        return None
    if not isinstance(fields, dict) or set(fields) != {*_TEXTS, *_NUMBERS, "runs"}:
        return None
    numbers, runs = [fields[name] for name in _NUMBERS], fields["runs"]
    if not all(isinstance(fields[name], str) for name in _TEXTS):
        return None
    if not all(type(number) is int and 1 <= number <= MOST_SUPPORT for number in numbers):
        return None
    if not isinstance(runs, list) or len(runs) > MOST_RUNS or not all(isinstance(run, str) for run in runs):
        return None
    return Entry(**{**fields, "runs": tuple(runs)})


def with_entry(entries: Sequence[Entry], new: Entry) -> list[Entry]:
    """Return ``entries`` with ``new``: the same prompt for the same task and model is one entry, whose support adds up.

    A run that is in it already changes nothing.

    Raises:
        ConfigError: It must not stand in a library, or the library is full.
    """
    if why := refusal(new):
        raise ConfigError(f"the prompt is not taken into a library: {why}")
    merged, is_new = [], True
    for entry in entries:
        if _key(entry) == _key(new):
            is_new = False
            if not set(new.runs) & set(entry.runs):
                examples, clients = entry.examples + new.examples, entry.clients + new.clients
                entry = replace(entry, examples=examples, clients=clients, runs=(*entry.runs, *new.runs)[-MOST_RUNS:])
        merged.append(entry)
    if is_new and len(merged) >= MOST_ENTRIES:
        raise ConfigError(f"the library holds {MOST_ENTRIES:,} prompts, which is the most: take some out by hand")
    return [*merged, new] if is_new else merged


def _key(entry: Entry) -> tuple[str, str, str]:
    return " ".join(entry.task.casefold().split()), entry.model, entry.prompt


def write_library(path: Path, entries: Iterable[Entry]) -> None:
    """Write a library, those with the most clients and examples first."""
    order = sorted(entries, key=lambda entry: (-entry.clients, -entry.examples, entry.line()))
    write_text(path, "".join(f"{entry.line()}\n" for entry in order))
