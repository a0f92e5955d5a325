"""What a command's flags and arguments are, read from what is public of typer: the same under every version of it.

Typer's own classes change from one release to the next: Flower holds typer at 0.20, the newest one brings a click of
its own. Only names of flags, texts and annotations are read here.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

from typer.models import ParameterInfo

WORDS: dict[Any, str] = {int: "N", float: "X", str: "TEXT", Path: "PATH"}
"""Type of a value -> how it is shown where nothing else is said."""


@dataclass(frozen=True)
class Parameter:
    """A flag or an argument.

    Args:
        name: Its name in Python.
        flags: As they are typed, those that say no behind the others; empty: it is an argument.
        metavar: How its value is shown; empty: it has none.
        text: Its help text.
        default: The default as a user would type it; empty: none is shown.
        limits: What a number may be, in words.
        section: The title that it stands under; empty: the usual one.
        is_required: Whether it must be given.
        is_many: Whether it may be given several times.
        is_hidden: Whether only ``--help-all`` shows it.
        values: What completes its value: a function with ``kind`` or ``values``, or None.
    """

    name: str
    flags: tuple[str, ...]
    metavar: str
    text: str
    default: str = ""
    limits: str = ""
    section: str = ""
    is_required: bool = False
    is_many: bool = False
    is_hidden: bool = False
    values: Any = None

    @property
    def shown(self) -> str:
        """Its name as the help page shows it: ``-q, --quiet``, ``--run DIR``, ``RUN`` or ``[EXAMPLE...]``."""
        if not self.flags:
            return self.metavar if self.is_required else f"[{self.metavar}]"
        says_no = self.flags[-1].startswith("--no-")
        names = "/".join(self.flags) if says_no else ", ".join(sorted(self.flags, key=len))
        return f"{names} {self.metavar}".rstrip()


def parameters_of(command: Any) -> list[Parameter]:
    """Return the flags and arguments of ``command``, in the order in which they are defined."""
    hints = _hints(command.callback) if command.callback is not None else {}
    return [_described(each, hints.get(each.name)) for each in command.params]


def _hints(callback: Any) -> Mapping[str, Any]:
    """Return name -> annotation of the parameters of ``callback``, markers included."""
    return get_type_hints(inspect.unwrap(callback), include_extras=True)


def _described(parameter: Any, hint: Any) -> Parameter:
    info = next((note for note in get_args(hint)[1:] if isinstance(note, ParameterInfo)), None)
    flags = () if parameter.param_type_name == "argument" else (*parameter.opts, *parameter.secondary_opts)
    is_switch = bool(getattr(parameter, "is_flag", False))
    kind = _kind(get_args(hint)[0]) if info is not None else str
    text = (info.help if info is not None else None) or getattr(parameter, "help", None) or ""
    metavar = (info.metavar if info is not None else None) or WORDS.get(kind, "TEXT")
    limits = _limits(getattr(info, "min", None), getattr(info, "max", None))
    return Parameter(
        name=parameter.name,
        flags=flags,
        metavar="" if is_switch else metavar,
        text=" ".join(text.split()),
        default=_default(parameter, flags, is_switch),
        limits=limits,
        section=getattr(info, "rich_help_panel", None) or "",
        is_required=bool(parameter.required),
        is_many=bool(getattr(parameter, "multiple", False)) or parameter.nargs != 1,
        is_hidden=bool(getattr(parameter, "hidden", False)),
        values=getattr(info, "autocompletion", None),
    )


def _kind(annotation: Any) -> Any:
    """Return the type of one value: of ``list[str] | None`` that is ``str``."""
    kinds = [kind for kind in get_args(annotation) if kind is not NoneType] or [annotation]
    inner = kinds[0]
    return get_args(inner)[0] if get_origin(inner) in (list, tuple) else inner


def _default(parameter: Any, flags: tuple[str, ...], is_switch: bool) -> str:
    """Return the default where there is one to show. A flag that is off is not worth a word."""
    value = parameter.default
    if is_switch:
        return flags[0].lstrip("-") if value is True and len(flags) > 1 else ""
    if value is None or value == "" or callable(value) or not isinstance(value, (str, int, float, Path)):
        return ""
    return f"{value:g}" if isinstance(value, float) else str(value)


def _limits(low: float | None, high: float | None) -> str:
    if low is None and high is None:
        return ""
    if high is None:
        return f"{low:g} or more"
    return f"at most {high:g}" if low is None else f"{low:g} to {high:g}"
