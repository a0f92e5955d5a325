"""The options of a run in its report: those that somebody chose, and all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from promptfed.config import SECTIONS, RunConfig
from promptfed.errors import PromptFedError
from promptfed.option_defaults import section_defaults
from promptfed.resolve import complete

CHOSEN = ("task", "method", "data", "backbone", "oracle")
"""Options that say what the run is, which are shown whether they are chosen or not."""
RECORDED = ("plugins", "objects")
Rows = list[tuple[str, str]]


def option_rows(config: RunConfig) -> tuple[Rows, Rows]:
    """Return (name, value) of the options that differ from the defaults of the run's task, data and method, and of all.

    Names are as ``--set`` takes them. Where the defaults are not known, as of a method that is not installed, those of
    ``promptfed train`` are compared.
    """
    values, defaults = _flat(config.model_dump(mode="json")), _flat(_defaults(config))
    every = [(name, _words(value)) for name, value in values.items()]
    differing = [
        (name, _words(value))
        for name, value in values.items()
        if name in CHOSEN[:3] or (value != defaults.get(name) and (value is not None or name in defaults))
    ]
    return differing, every


def _defaults(config: RunConfig) -> dict[str, Any]:
    chosen = {name: getattr(config, name) for name in CHOSEN if getattr(config, name) is not None}
    try:
        return complete(RunConfig(**chosen)).model_dump(mode="json")
    except (PromptFedError, OSError, KeyError):
        plain = RunConfig().model_dump(mode="json")
    try:
        return {**plain, **section_defaults(config)}
    except (PromptFedError, KeyError):
        return plain


def _flat(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options with those of sections under their names for ``--set``: ``method.lr``."""
    flat: dict[str, Any] = {}
    for name, value in options.items():
        if name in SECTIONS:
            flat |= {f"{name.removesuffix('_options')}.{key}": item for key, item in (value or {}).items()}
        elif name not in RECORDED or value:
            flat[name] = value
    return flat


def _words(value: Any) -> str:
    if isinstance(value, Mapping):
        return "; ".join(f"{key}: {_words(item)}" for key, item in value.items()) or "-"
    if isinstance(value, list | tuple):
        return ", ".join(map(_words, value)) or "none"
    if value == "":
        return "empty"
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
