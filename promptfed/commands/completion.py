"""Answer a shell that asks how a line may go on: bash, zsh, fish and PowerShell, with the scripts that typer installs.

Nothing heavy is imported, no torch, no pydantic and no typer: an answer takes little longer than Python's own start.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from promptfed.commands.completion_data import completion_data, known_names

VARIABLE = "_PROMPTFED_COMPLETE"
"""Environment variable by which a shell asks."""
Item = tuple[str, str]
"""A word that the shell may put in, and what it means."""
DEFAULTS = {"task": "clip-fewshot", "method": "promptfl", "aggregator": "mean"}
RUNS = Path("runs")


def is_asked() -> bool:
    """Return whether a shell asks for completions (and not for its script, which typer writes)."""
    return os.environ.get(VARIABLE, "").startswith("complete_")


def answer() -> None:
    """Print what the shell that asks may put in, in its own form, and exit."""
    shell = os.environ[VARIABLE].removeprefix("complete_")
    words, cut = _asked(shell)
    items = [(text[cut:], meaning) for text, meaning in completions(words[1:])]
    sys.stdout.reconfigure(encoding="utf-8", errors="replace")  # type: ignore[union-attr]
    text, code = _formatted(shell, items)
    if text:
        print(text)
    sys.exit(code)


def _asked(shell: str) -> tuple[list[str], int]:
    """Return the words of the line up to the one that is typed, and how much of that one the shell keeps itself."""
    if shell == "bash":
        words = _split(os.environ.get("COMP_WORDS", ""))
        place = int(os.environ.get("COMP_CWORD") or len(words) - 1)
        return _joined([*words[:place], words[place] if place < len(words) else ""])
    line = os.environ.get("_TYPER_COMPLETE_ARGS", "")
    words = _split(line)
    return (words if line and not line[-1].isspace() and words else [*words, ""]), 0


def _split(line: str) -> list[str]:
    """Return the words of a line whose last quotation may be open."""
    reader = shlex.shlex(line, posix=True)
    reader.whitespace_split, reader.commenters = True, ""
    words: list[str] = []
    try:
        words.extend(reader)
    except ValueError:  # an open quotation, or a backslash at the end
        words.append(reader.token.lstrip("'\""))
    return words


def _joined(words: Sequence[str]) -> tuple[list[str], int]:
    """Join what bash splits at ``=`` and ``:``; also return how much of the last word bash has already."""
    joined: list[str] = []
    is_open = False
    for word in words:
        is_break = word in ("=", ":", "::")
        if joined and (is_open or (is_break and len(joined) > 1)):
            joined[-1] += word
        else:
            joined.append(word)
        is_open = is_break
    last = joined[-1] if joined else ""
    return joined, max(last.rfind("="), last.rfind(":")) + 1


def _formatted(shell: str, items: Sequence[Item]) -> tuple[str, int]:
    """Return what the shell reads, and the exit code."""
    if shell == "bash":
        return "\n".join(text for text, _ in items), 0
    if shell == "zsh":
        rows = [f'"{_zsh(text)}"' + (f':"{_zsh(meaning)}"' if meaning else "") for text, meaning in items]
        return (f"_arguments '*: :(({chr(10).join(rows)}))'" if rows else "_files"), 0
    if shell == "fish":
        if os.environ.get("_TYPER_COMPLETE_FISH_ACTION") == "is-args":
            return "", 0 if items else 1
        return "\n".join(f"{text}\t{meaning}".rstrip() for text, meaning in items), 0
    return "\n".join(f"{text}:::{meaning or ' '}" for text, meaning in items), 0  # PowerShell


def _zsh(text: str) -> str:
    escaped = text.replace('"', '""').replace("'", "''")
    return re.sub(r"([$`])", r"\\\1", escaped).replace(":", r"\\:")


class Line:
    """What a line says so far: the command, its arguments, the flags with their values, one that waits for its own."""

    def __init__(self) -> None:
        self.path = self.open_flag = ""
        self.arguments: list[str] = []
        self.flags: dict[str, list[str]] = {}

    @property
    def command(self) -> dict[str, Any]:
        """What may follow the command."""
        entry: dict[str, Any] = completion_data()["commands"].get(self.path, {})
        return entry

    def flag(self, name: str) -> list[str] | None:
        """Return what is known of a flag, also of one that all commands have."""
        commands = completion_data()["commands"]
        known: list[str] | None = self.command.get("flags", {}).get(name) or commands[""].get("flags", {}).get(name)
        return known


def completions(words: Sequence[str]) -> list[Item]:
    """Return how the last of ``words`` may go on; it may be empty. The program's name is not among them."""
    line = _read(words[:-1])
    typed = words[-1] if words else ""
    if line.open_flag:
        return _with_start(_values(line, line.open_flag, typed), typed)
    if typed.startswith("-"):
        name, equals, value = typed.partition("=")
        if equals:
            return [(f"{name}={text}", meaning) for text, meaning in _values(line, name, value)]
        return _flags(line, typed)
    if "commands" in line.command:
        return [] if line.arguments else _with_start(line.command["commands"].items(), typed)
    places = line.command.get("arguments", [])
    place = len(line.arguments)
    if place < len(places) or (places and places[-1].endswith("*")):
        return _with_start(_of(line, places[min(place, len(places) - 1)].rstrip("*"), typed), typed)
    return []


def _read(words: Iterable[str]) -> Line:
    line = Line()
    for word in words:
        if line.open_flag:
            line.flags.setdefault(line.open_flag, []).append(word)
            line.open_flag = ""
        elif word.startswith("-") and len(word) > 1:
            name, equals, value = word.partition("=")
            line.flags.setdefault(name, []).extend([value] if equals else [])
            known = line.flag(name)
            if known and "v" in known[2] and not equals:
                line.open_flag = name
        elif word in line.command.get("commands", {}):
            line.path = f"{line.path} {word}".strip()
        else:
            line.arguments.append(word)
    return line


def _flags(line: Line, typed: str) -> list[Item]:
    """Return flags that may follow. Those that are seldom typed come once a letter of theirs is."""
    flags = line.command.get("flags", {})
    return [
        (name, meaning)
        for name, (_, meaning, marks) in flags.items()
        if name.startswith(typed) and ("h" not in marks or len(typed) > 2) and (name not in line.flags or "m" in marks)
    ]


def _values(line: Line, flag: str, typed: str) -> list[Item]:
    """Return the values of a flag; where it takes several with commas, those that are typed stay before them."""
    known = line.flag(flag)
    if known is None:
        return []
    head = ""
    if "c" in known[2] and "," in typed:
        head = typed.rpartition(",")[0] + ","
    taken = set(head.split(","))
    found = _with_start(_of(line, known[0], typed), typed[len(head) :])
    return [(head + text, meaning) for text, meaning in found if text not in taken]


def _with_start(items: Iterable[Item], start: str) -> list[Item]:
    return [(text, meaning) for text, meaning in items if text.startswith(start)]


def _of(line: Line, values: str, typed: str) -> Iterable[Item]:
    """Return the values of a kind, as ``completions.json`` calls it."""
    kind, _, rest = values.partition(":")
    if kind == "one":
        return [(value, "") for value in rest.split("|")]
    if kind == "names":
        return [(name, "") for name in known_names(rest)]
    if kind == "named" and line.arguments:
        return [(name, "") for name in known_names(line.arguments[0])]
    if kind == "runs":
        return [(name, "") for name in runs_like(typed)]
    return _settings(line, typed) if kind == "settings" else []


def runs_like(typed: str) -> list[str]:
    """Return the runs that ``typed`` may become, the newest first: those in runs/, or in the folder that it names."""
    folder = Path(typed.rpartition("/")[0] or "/") if "/" in typed else RUNS
    try:
        found = [config.parent for config in folder.expanduser().glob("*/config.yaml")]
        found.sort(key=lambda run: -run.stat().st_mtime)
    except OSError:
        return []
    head = typed.rpartition("/")[0] + "/" if "/" in typed else f"{RUNS}/"
    return [f"{head}{run.name}" for run in found]


def _settings(line: Line, typed: str) -> list[Item]:
    """Return ``KEY=`` for the options that ``--set`` takes, and ``KEY=VALUE`` once one is left, or is typed."""
    rows: dict[str, list[str]] = {}
    for section, options in completion_data()["settings"].items():
        head, _, owner = section.partition(".")
        if not owner or owner in _chosen(line, head):
            rows |= {f"{head}.{name}" if head else name: values for name, values in options.items()}
    key, equals, _ = typed.partition("=")
    if not equals:
        fitting = {name: values for name, values in rows.items() if name.startswith(typed)}
        if len(fitting) > 1:
            return [(f"{name}=", "") for name in fitting]
        rows, key = fitting, next(iter(fitting), "")
    values = rows.get(key, [])
    kinds = {"method": "methods", "task": "tasks", "backbone": "backbones", "aggregator": "aggregators",
             "engine": "engines", "oracle": "oracles", "partition": "partitions", "device": "devices"}  # fmt: skip
    return [(f"{key}={value}", "") for value in (known_names(kinds[key]) if key in kinds else values)]


def _chosen(line: Line, section: str) -> set[str]:
    """Return the methods, tasks, aggregators or attacks that the line names, else the usual one."""
    if section == "attack":
        names = [text.partition("=")[2] for text in line.flags.get("--set", []) if text.startswith("attack.name=")]
        return set(names)
    typed = [*line.flags.get(f"--{section}", []), *line.flags.get(f"--{section}s", [])]
    return {name.strip() for text in typed for name in text.split(",")} or {DEFAULTS.get(section, "")}
