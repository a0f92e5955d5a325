"""Refuse empty paths: ``--run "$RUN"`` with RUN unset would write into the current folder."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any, get_args, get_type_hints

import typer
from typer.models import ParameterInfo


def refuse_empty_paths(app: typer.Typer) -> typer.Typer:
    """Return ``app``, whose options and arguments that are paths, those of its subcommands too, are not empty."""
    for group in app.registered_groups:
        if group.typer_instance is not None:
            refuse_empty_paths(group.typer_instance)
    for command in app.registered_commands:
        if command.callback is not None:
            _refuse_in(command.callback)
    return app


def _refuse_in(callback: Any) -> None:
    """Have the paths among the parameters of ``callback`` read by ``a_path``."""
    function = inspect.unwrap(callback)
    hints = get_type_hints(function, include_extras=True)
    for hint in hints.values():
        kinds = get_args(hint)[:1]
        is_path = kinds == (Path,) or (bool(kinds) and Path in get_args(kinds[0]))
        for note in get_args(hint)[1:]:
            if isinstance(note, ParameterInfo) and is_path:
                note.parser = a_path
                note.metavar = note.metavar or "PATH"
    function.__annotations__ = hints  # of the markers that were changed: reading them again would make new ones


def a_path(text: str) -> Path:
    """Return ``text`` as a path.

    Raises:
        typer.BadParameter: It is empty.
    """
    if str(text) == "":
        raise typer.BadParameter("it is empty: give a path, or leave it out")
    return Path(text)
