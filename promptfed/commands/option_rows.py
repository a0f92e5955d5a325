"""Describe all options as rows of a table, for ``promptfed list options`` and docs/configuration.md."""

from __future__ import annotations

from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from promptfed.commands.flags import MODELS, shown_default
from promptfed.errors import unknown_name
from promptfed.option import GROUPS, Option, options_of
from promptfed.oracle_options import OracleOptions
from promptfed.personalize.options import OnboardOptions, PersonalizeOptions
from promptfed.privacy_options import PrivacyOptions

TYPES = {int: "integer", float: "number", str: "text", bool: "true, false", dict: "names and values"}
SIGNS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
RESUME = {"never": "", "raised": "larger", "moved": "moved", "free": "yes"}
SECTIONS = ("method", "aggregator", "task")
"""Sections of options that registries have: ``--set method.NAME=VALUE``."""
PREFIXES: dict[type[BaseModel], str] = {OracleOptions: "oracle.", PrivacyOptions: "privacy."}


@dataclass(frozen=True)
class OptionRow:
    """One option in words.

    Args:
        name: As ``--set`` takes it.
        values: What it may be.
        default: As a user would type it.
        meaning: Its description.
        flag: The flag of the command line; empty: none.
        resume: Whether it may change when a run goes on: "", "larger", "moved" or "yes".
    """

    name: str
    values: str
    default: str
    meaning: str
    flag: str = ""
    resume: str = ""


def run_rows(group: str) -> list[OptionRow]:
    """Return the options of a run that belong to ``group``, those of a black box included."""
    models: tuple[type[BaseModel], ...] = (*MODELS, PrivacyOptions)
    return [row for model in models for row in _marked_rows(model, group, PREFIXES.get(model, ""))]


def section_rows(section: str, config: type[BaseModel]) -> list[OptionRow]:
    """Return the options of a method, an aggregator or a task, whose ``Config`` is ``config``."""
    return [_row(name, field, None, f"{section}.") for name, field in config.model_fields.items()]


def tables(name: str | None) -> dict[str, list[OptionRow]]:
    """Return title -> rows of the options that ``name`` stands for.

    Args:
        name: A group of options, a method, an aggregator or a task; None: all options of a run.

    Raises:
        ConfigError: It is none of them.
    """
    if name is None:
        rows_by_title = {title: run_rows(group) for group, title in GROUPS.items()}
    elif name == "personalize":
        models: dict[str, type[BaseModel]] = {
            "promptfed personalize": PersonalizeOptions,
            "promptfed onboard": OnboardOptions,
        }
        rows_by_title = {title: _marked_rows(model) for title, model in models.items()}
    elif name in GROUPS:
        rows_by_title = {GROUPS[name]: run_rows(name)}
    else:
        rows_by_title = {
            f"{section} {name}": section_rows(section, registry[name].Config)
            for section, registry in registries().items()
            if name in registry
        }
        if not rows_by_title:
            every = {each for registry in registries().values() for each in registry}
            raise unknown_name("group of options, method, aggregator or task", name, every.union(GROUPS))
    return {title: rows for title, rows in rows_by_title.items() if rows or name is not None}


def registries() -> dict[str, Any]:
    """Return section -> the registry of things that have its options."""
    from promptfed.aggregators.base import AGGREGATORS
    from promptfed.method import METHODS
    from promptfed.tasks import TASKS

    return dict(zip(SECTIONS, (METHODS, AGGREGATORS, TASKS), strict=True))


def values_of(field: FieldInfo) -> str:
    """Return the values of a field in words: its type and bounds, or its choices."""
    words = _values(field.annotation)
    bounds = [
        f"{SIGNS[key]} {getattr(bound, key):g}" for bound in field.metadata for key in SIGNS if hasattr(bound, key)
    ]
    return f"{words} {', '.join(bounds)}".strip()


def _values(annotation: Any) -> str:
    origin, inside = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _values(inside[0])
    if origin is Literal:
        return ", ".join(map(str, inside))
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(_values(part) for part in inside if part is not NoneType))
    if origin in (tuple, list):
        return f"list of {_values(inside[0])}"
    return TYPES.get(origin or annotation, "value")


def _row(name: str, field: FieldInfo, option: Option | None, prefix: str) -> OptionRow:
    default = (option.default if option else "") or shown_default(field.get_default(call_default_factory=True))
    default = default.replace("\n", "\\n")
    flag = f"--{name.replace('_', '-')}" if option and option.flag else ""
    resume = RESUME[option.change] if option and not option.recorded else ""
    values = f"promptfed list {option.choices}" if option and option.choices else values_of(field)
    return OptionRow(prefix + name, values, default, field.description or "", flag, resume)


def _marked_rows(model: type[BaseModel], group: str = "", prefix: str = "") -> list[OptionRow]:
    """Return the options of ``model``, or those of one group, whose fields have markers."""
    return [
        _row(name, model.model_fields[name], option, prefix)
        for name, option in options_of(model).items()
        if option.group == group or not group
    ]
