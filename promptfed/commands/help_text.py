"""Help pages that read the same under every supported pair of typer and click.

Flower holds typer at 0.20. Together with click 8.4 and newer that version loses the texts of arguments, prints
``\\[required]`` for ``[required]``, and suggests the nearest command twice. With click 8.5 it lists the
arguments twice.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from typing import Any, get_args, get_type_hints

import typer
from typer.models import ArgumentInfo

CLICK_SUGGESTS = hasattr(sys.modules[typer.BadParameter.__module__], "NoSuchCommand")
"""Whether click itself names the nearest command, so that typer need not. Newer typer carries a click of its own."""


def build_command(app: typer.Typer) -> Any:
    """Return the command of ``app`` with every help page mended."""
    app.suggest_commands = not CLICK_SUGGESTS
    command = typer.main.get_command(app)
    _mend(command)
    return command


def _mend(command: Any) -> None:
    """Give back the help texts of the arguments of ``command`` and of its subcommands."""
    for nested in getattr(command, "commands", {}).values():
        _mend(nested)
    texts = _argument_texts(command.callback) if command.callback is not None else {}
    for parameter in command.params:
        if getattr(parameter, "help", None) is None and parameter.name in texts:
            parameter.help = texts[parameter.name]
        parameter.get_help_record = _without_escapes(parameter.get_help_record)
    if any(getattr(parameter, "rich_help_panel", None) for parameter in command.params):
        command.format_options = lambda context, formatter: _write_sections(command, context, formatter)
    command.format_arguments = lambda *_: None  # what click would write above the section "Arguments" of typer


def _write_sections(command: Any, context: Any, formatter: Any) -> None:
    """Write the options of ``command`` in sections: rich would draw its panels, which the plain page does not show."""
    sections: dict[str, list[tuple[str, str]]] = {}
    for parameter in command.get_params(context):
        if (record := parameter.get_help_record(context)) is not None:
            is_argument = parameter.param_type_name == "argument"
            title = getattr(parameter, "rich_help_panel", None) or ("Arguments" if is_argument else "Options")
            sections.setdefault(title, []).append(record)
    for title, records in sections.items():
        with formatter.section(title):
            formatter.write_dl(records)


def _argument_texts(callback: Callable[..., Any]) -> dict[str, str]:
    """Return the help text of each argument that ``callback`` is annotated with."""
    hints = get_type_hints(inspect.unwrap(callback), include_extras=True)
    return {
        name: note.help
        for name, hint in hints.items()
        for note in get_args(hint)[1:]
        if isinstance(note, ArgumentInfo) and note.help
    }


def _without_escapes(record: Callable[..., tuple[str, str] | None]) -> Callable[..., tuple[str, str] | None]:
    """Return ``record`` with brackets as they are: rich draws none of our pages."""

    def plain(context: Any) -> tuple[str, str] | None:
        text = record(context)
        return text and (text[0], text[1].replace("\\[", "["))

    return plain
