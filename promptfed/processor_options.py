"""The option ``processors``: ``clip``, ``[clip, quantize]``, or with options ``[{quantize: {format: int8}}]``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator
from pydantic_core import PydanticCustomError

FORM = "give a list of names, or of a name with its options, such as [clip, {quantize: {format: int8}}]"


def _listed(value: Any) -> tuple[dict[str, dict[str, Any]], ...]:
    """Return every way to write the option as one: a mapping of one name to its options for each processor."""
    items = [value] if isinstance(value, str | Mapping) else value
    if not isinstance(items, list | tuple):
        raise PydanticCustomError("processors", FORM)
    return tuple(_entry(item) for item in items)


def _entry(item: Any) -> dict[str, dict[str, Any]]:
    if isinstance(item, str):
        return {item: {}}
    if isinstance(item, Mapping) and len(item) == 1:
        [(name, options)] = item.items()
        if isinstance(name, str) and (options is None or isinstance(options, Mapping)):
            return {name: dict(options or {})}
    raise PydanticCustomError("processors", FORM)


ProcessorOptions = Annotated[tuple[dict[str, dict[str, Any]], ...], BeforeValidator(_listed)]
"""Processors in the order in which they act at the client, each a mapping of its name to its options."""
