"""Refuse empty paths: ``--run "$RUN"`` with RUN unset would write into the current folder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import typer

PATH_TYPES = ("path", "file", "directory")


def refuse_empty_paths(command: Any) -> Any:
    """Return ``command``, whose options and arguments that are paths, those of its subcommands too, are not empty."""
    for nested in getattr(command, "commands", {}).values():
        refuse_empty_paths(nested)
    for parameter in getattr(command, "params", ()):
        if getattr(parameter.type, "name", "") in PATH_TYPES:
            parameter.type_cast_value = _not_empty(parameter, parameter.type_cast_value)
    return command


def _not_empty(parameter: Any, cast: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def checked(context: Any, value: Any) -> Any:
        if any(part == "" for part in (value if isinstance(value, (list, tuple)) else [value])):
            raise typer.BadParameter("it is empty: give a path, or leave it out", ctx=context, param=parameter)
        return cast(context, value)

    return checked
