"""Help pages: plain text of our own, so that they read the same under every version of typer, and in a pipe."""

from __future__ import annotations

import inspect
import re
import shutil
import textwrap
from collections.abc import Iterable, Iterator
from typing import Any

import typer

from promptfed.commands.completion_data import known_names
from promptfed.commands.parameters import Parameter, parameters_of
from promptfed.option import GROUPS

Row = tuple[str, str]
WIDEST = 100
NARROWEST = 50
COLUMN = 28
"""Most columns of the first column of a table; a longer name stands on a line of its own."""
_FLAG = re.compile(r"(--[a-z-]+) (?!-)")
GLUE = "\x00"
"""Stands for a blank at which no line is broken."""
HELP = ("-h, --help", "Show this message and exit.")
FEW, MANY = 8, 30
"""Most names that ``--help`` and ``--help-all`` list; of more they say which command does."""
TRAINING = "Training"
SHORT = {
    GROUPS["task"]: "Data and clients",
    GROUPS["model"]: "Model and method",
    GROUPS["oracle"]: "Model and method",
    GROUPS["method"]: "Model and method",
}
"""Group of options -> the section of ``--help``; the others are in ``TRAINING``. ``--help-all`` has the groups."""
SECTIONS = {
    "Commands to train": ("train", "compare", "personalize", "onboard", "import"),
    "Commands to look at runs": ("list", "report", "watch", "eval", "words", "tasks"),
    "Commands to use a prompt": ("export", "predict", "serve", "push", "pull"),
    "Commands for privacy and attacks": ("privacy", "attack"),
    "Commands for real sites": ("flower", "site"),
    "Commands for this machine": ("doctor", "cache", "serve-oracle"),
}
"""Title -> the commands under it; what is in none of them stands under "Commands"."""


def build_command(app: typer.Typer) -> Any:
    """Return the command of ``app``, whose help pages, and those of its subcommands, are written here."""
    app.suggest_commands = not _click_suggests()
    command = typer.main.get_command(app)
    _take_over(command)
    return command


def _click_suggests() -> bool:
    """Whether click itself names the nearest command, so that typer need not. Newer typer has a click of its own."""
    return hasattr(inspect.getmodule(typer.BadParameter), "NoSuchCommand")


def _take_over(command: Any) -> None:
    for nested in getattr(command, "commands", {}).values():
        _take_over(nested)
    command.get_help = lambda context: help_page(command, context.command_path)


def help_page(command: Any, path: str, *, everything: bool = False) -> str:
    """Return the help page of ``command``.

    Args:
        command: The command.
        path: The words that lead to it, ``promptfed train``.
        everything: Whether to show the flags that people seldom type too.
    """
    width = max(min(shutil.get_terminal_size((80, 24)).columns, WIDEST) - 2, NARROWEST)
    parameters = parameters_of(command)
    lines = [f"Usage: {_usage(command, path, parameters)}", *_text(command.help or "", width)]
    for title, rows in _sections(command, parameters, everything).items():
        lines += ["", f"{title}:", *_table(rows, width)]
    return "\n".join(lines)


def first_sentence(text: str) -> str:
    """Return the first sentence of a docstring, without the point."""
    line = " ".join(inspect.cleandoc(text).partition("\n\n")[0].split())
    return line.partition(". ")[0].removesuffix(".")


def _usage(command: Any, path: str, parameters: Iterable[Parameter]) -> str:
    arguments = [each.shown for each in parameters if not each.flags and not each.is_hidden]
    rest = ["COMMAND [ARGS]..."] if hasattr(command, "commands") else []
    return " ".join([path, "[OPTIONS]", *arguments, *rest])


def _sections(command: Any, parameters: Iterable[Parameter], everything: bool) -> dict[str, list[Row]]:
    """Return title -> rows: arguments, flags by their sections, subcommands."""
    sections: dict[str, list[Row]] = {}
    options: list[Row] = []
    for each in parameters:
        if each.is_hidden and not everything:
            continue
        row = each.shown, _explained(each, everything)
        if not each.flags:
            sections.setdefault("Arguments", []).append(row)
        elif each.section:
            title = each.section if everything else SHORT.get(each.section, TRAINING)
            sections.setdefault(title, []).append(row)
        else:
            options.append(row)
    return {**sections, "Options": [*options, HELP], **_commands(getattr(command, "commands", {}))}


def _commands(nested: dict[str, Any]) -> dict[str, list[Row]]:
    """Return title -> (name, what it does) of subcommands; a few of them need no titles."""
    rows = {name: (name, first_sentence(each.help or "")) for name, each in nested.items() if not each.hidden}
    titles = dict[str, list[Row]]()
    if "train" in rows:
        for title, names in SECTIONS.items():
            titles[title] = [rows.pop(name) for name in names if name in rows]
    return {title: found for title, found in {**titles, "Commands": list(rows.values())}.items() if found}


def _explained(parameter: Parameter, everything: bool) -> str:
    """Return the text of a parameter, with the names that it takes, its default and what numbers may be."""
    notes = [f"default: {parameter.default}"] if parameter.default else []
    notes += [parameter.limits] if parameter.limits else []
    notes += ["required"] if parameter.is_required else []
    if everything and parameter.flags and parameter.is_many and "epeat" not in parameter.text:
        notes.append("may be repeated")
    words = [parameter.text, _names(parameter, everything), f"[{'; '.join(notes)}]" if notes else ""]
    return " ".join(word for word in words if word)


def _names(parameter: Parameter, everything: bool) -> str:
    """Return the names that a parameter takes, or the command that lists them; empty if its text has them."""
    kind = getattr(parameter.values, "kind", "")
    names = known_names(kind) if kind else []
    if 2 * sum(name in parameter.text for name in names) >= len(names):
        return ""
    if len(names) <= (MANY if everything else FEW):
        return f"One of: {', '.join(names)}."
    return f"promptfed list {kind} shows all {len(names)}."


def _text(text: str, width: int) -> Iterator[str]:
    """Yield the lines of a description, indented by two. Paragraphs that begin with a backspace keep their lines."""
    for paragraph in inspect.cleandoc(text).partition("\f")[0].split("\n\n"):
        yield ""
        if paragraph.startswith(("\b", "\\b")):
            for line in paragraph.split("\n")[1:]:
                yield from _example(f"  {line}", width)
        else:
            yield from textwrap.wrap(
                " ".join(paragraph.split()), width, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False
            )


def _example(line: str, width: int) -> Iterator[str]:
    """Yield a line of an example; one that is too long is broken so that it can still be pasted."""
    if len(line) <= width:
        yield line.rstrip()
        return
    indent = len(line) - len(line.lstrip())
    command, _, comment = line.strip().partition("   ")
    rows = textwrap.wrap(
        _FLAG.sub(f"\\1{GLUE}", command),  # a flag and its value stay together
        width - 2,
        initial_indent=" " * indent,
        subsequent_indent=" " * (indent + 4),
        break_long_words=False,
        break_on_hyphens=False,
    )
    rows = [row.replace(GLUE, " ") for row in rows]
    yield from (f"{row} \\" for row in rows[:-1])
    yield rows[-1]
    if comment.strip():
        yield from textwrap.wrap(
            comment.strip(),
            width,
            initial_indent=" " * (indent + 6) + "# ",
            subsequent_indent=" " * (indent + 6) + "# ",
        )


def _table(rows: Iterable[Row], width: int) -> Iterator[str]:
    """Yield the lines of a table of names and texts."""
    rows = list(rows)
    column = min(max(len(name) for name, _ in rows), COLUMN) + 4
    for name, text in rows:
        lines = textwrap.wrap(text, width - column, break_on_hyphens=False, break_long_words=False) or [""]
        head = f"  {name}"
        if len(head) > column - 2:
            yield head
            head = ""
        yield f"{head:<{column}}{lines[0]}".rstrip()
        yield from (" " * column + line for line in lines[1:])
