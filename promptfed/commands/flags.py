"""Make the flags of the command line from the fields of config models, which describe each option."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from promptfed.commands.completion_data import known_names
from promptfed.config import RunConfig
from promptfed.option import GROUPS, Option, options_of
from promptfed.oracle_options import OracleOptions
from promptfed.shorthands import Shorthands

Flags = dict[str, Any]
"""Option -> the value of its flag, None if it is not set."""
MODELS: tuple[type[BaseModel], ...] = (RunConfig, Shorthands, OracleOptions)
PATHS = ("DIR", "FILE")


def run_flags(*groups: str, without: Collection[str] = ()) -> tuple[str, ...]:
    """Return the names of a run's options that have flags.

    Args:
        groups: Groups of options; without any, all of them.
        without: Names to leave out.
    """
    return tuple(
        name
        for group in groups or GROUPS
        for model in MODELS
        for name, option in options_of(model).items()
        if option.group == group and option.flag and name not in without
    )


def with_flags(
    names: Iterable[str],
    *,
    models: tuple[type[BaseModel], ...] = MODELS,
    only_common: bool = False,
    texts: Mapping[str, str] | None = None,
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorate a command whose first parameter, ``flags``, takes the values of the options ``names``.

    Args:
        names: Options of ``models``, in the order of the help page.
        models: Where the options are defined.
        only_common: Hide the flags that are not common, and show the others in sections. All of them work, and
            ``--help-all`` shows them.
        texts: Option -> its help text, where it means something else for this command.
    """
    fields = {name: _field(name, models) for name in names}

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        signature, hints = inspect.signature(command), get_type_hints(command, include_extras=True)
        flags = [_parameter(name, *fields[name], (texts or {}).get(name, ""), only_common) for name in fields]
        rest = [
            parameter.replace(annotation=hints[name], kind=inspect.Parameter.KEYWORD_ONLY)
            for name, parameter in signature.parameters.items()
            if name != "flags"
        ]
        arguments = [each for each in rest if each.default is inspect.Parameter.empty]
        others = [each for each in rest if each.default is not inspect.Parameter.empty]
        others += [HELP_ALL] if only_common else []

        def wrapper(**values: Any) -> None:
            values.pop(HELP_ALL.name, None)
            typed = {name: values.pop(name) for name in fields}
            command(typed, **values)

        parameters = [*arguments, *flags, *others]
        wrapper.__name__, wrapper.__doc__, wrapper.__module__ = command.__name__, command.__doc__, command.__module__
        wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        wrapper.__annotations__ = {each.name: each.annotation for each in parameters}
        return wrapper

    return decorate


def is_list(annotation: Any) -> bool:
    """Return whether values of this type are lists: their flags take several, with commas or one by one."""
    kinds = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    return any(get_origin(kind) in (tuple, list) for kind in kinds)


def list_options() -> frozenset[str]:
    """Return the names of the run's options whose values are lists."""
    return frozenset(name for name, field in RunConfig.model_fields.items() if is_list(field.annotation))


def names_of(kind: str) -> Callable[[str], list[str]]:
    """Return a function that completes names of ``kind`` in the shell. Its attribute ``kind`` says which."""

    def complete(incomplete: str) -> list[str]:
        return [name for name in known_names(kind) if name.startswith(incomplete)]

    complete.kind = kind  # type: ignore[attr-defined]
    return complete


def one_of(values: Iterable[str]) -> Callable[[str], list[str]]:
    """Return a function that completes one of ``values`` in the shell. Its attribute ``choices`` has them."""
    choices = tuple(values)

    def complete(incomplete: str) -> list[str]:
        return [value for value in choices if value.startswith(incomplete)]

    complete.choices = choices  # type: ignore[attr-defined]
    return complete


def _show_everything(context: typer.Context, is_wanted: bool) -> None:
    """Print the long help page, if it is asked for, and leave."""
    if is_wanted:
        from promptfed.commands.help_page import help_page

        typer.echo(help_page(context.command, context.command_path, everything=True))
        raise typer.Exit()


HELP_ALL = inspect.Parameter(
    "help_all",
    inspect.Parameter.KEYWORD_ONLY,
    default=False,
    annotation=Annotated[
        bool,
        typer.Option(
            "--help-all", callback=_show_everything, is_eager=True, help="Show every option by its group, and exit."
        ),
    ],
)


def _field(name: str, models: tuple[type[BaseModel], ...]) -> tuple[FieldInfo, Option]:
    model = next(each for each in models if name in each.model_fields)
    return model.model_fields[name], options_of(model)[name]


def _parameter(name: str, field: FieldInfo, option: Option, text: str, only_common: bool) -> inspect.Parameter:
    """Return the command's parameter for an option.

    Values stay text until the config model reads them, so that a bad one gets the same message from every source.
    """
    kind: Any = str | None
    if field.annotation is bool:
        kind = bool | None
    elif is_list(field.annotation):
        kind = list[str] | None
    elif option.metavar in PATHS:
        kind = Path | None
    information = typer.Option(
        f"--{name.replace('_', '-')}",
        help=text or help_text(field, option),
        metavar=option.metavar or None,
        autocompletion=_values_of(field, option),
        hidden=only_common and not option.common,
        rich_help_panel=GROUPS[option.group] if only_common else None,
    )
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind, information]
    )


def _values_of(field: FieldInfo, option: Option) -> Callable[[str], list[str]] | None:
    """Return what completes the value of an option; None if it may be anything."""
    if option.choices:
        return names_of(option.choices)
    choices = choices_of(field.annotation)
    return one_of(choices) if choices else None


def help_text(field: FieldInfo, option: Option) -> str:
    """Return the help text of an option: its description, choices and default."""
    text = field.description or ""
    choices = choices_of(field.annotation)
    if not all(choice in text for choice in choices):
        text += f": {', '.join(choices)}"
    default = option.default
    if not default and field.default is not None and field.default is not False:
        default = shown_default(field.default)
    return f"{text[:1].upper()}{text[1:]}{f' [{default}]' if default else ''}."


def choices_of(annotation: Any) -> tuple[str, ...]:
    """Return the values of a Literal, also inside a union or a list; none for other types."""
    if get_origin(annotation) is Literal:
        return tuple(map(str, get_args(annotation)))
    return tuple(value for part in get_args(annotation) for value in choices_of(part))


def shown_default(value: Any) -> str:
    """Return a default as a user would type it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(shown_default, value)) or "none"
    return "none" if value is None or value in ({}, "") else str(value)
