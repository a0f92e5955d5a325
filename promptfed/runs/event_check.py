"""Check of the fields of an event that the report, the costs and the export read; other fields are free."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from promptfed.usage import Usage

TEXTS: Mapping[str, tuple[str, ...]] = {
    "client": ("stage",),
    "sum": ("stage",),
    "round": ("stage",),
    "incident": ("stage", "kind", "why"),
    "validation": ("stage",),
    "selection": ("stage",),
    "evaluation": ("stage",),
}
"""Event -> its fields that must be there and be text."""
COUNTS: Mapping[str, tuple[str, ...]] = {
    "client": ("round", "client"),
    "sum": ("round", "client"),
    "round": ("round",),
}
"""Event -> its fields that must be there and be whole numbers."""
NUMBERS = (
    *(field.name for field in fields(Usage)),
    *(
        "bytes_up",
        "bytes_down",
        "seconds",
        "loss",
        "accuracy",
        "val_accuracy",
        "drift",
        "base",
        "new",
        "hm",
        "local_mean",
    ),
)
"""Fields that are a number or null in every event."""
SCORES = ("accuracy", "all_classes", "items")
"""Numbers or null of each client in an evaluation."""


def event_problem(event: object) -> str:
    """Return why ``event`` is not one that promptfed writes, as the end of a sentence; empty if it is one."""
    if not isinstance(event, dict):
        return "is not an object"
    kind = event.get("event")
    if not isinstance(kind, str):
        return "does not say which event it is"
    for name in ("time", *TEXTS.get(kind, ())):
        if not isinstance(event.get(name), str):
            return f"lacks its {name}"
    for name in COUNTS.get(kind, ()):
        if not isinstance(event.get(name), int):
            return f"lacks its {name}"
    for name in ("stage", "name", "failure"):
        if not isinstance(event.get(name, ""), str):
            return f"has a {name} that is no text"
    if name := _wrong_number(event, NUMBERS):
        return f"has a {name} that is no number"
    return _evaluation_problem(event) if kind == "evaluation" else ""


def _evaluation_problem(event: Mapping[str, Any]) -> str:
    rows = [] if event.get("local") is None else event["local"]
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        return "has no list of clients' scores"
    for row in rows:
        if not isinstance(row.get("client"), int) or _wrong_number(row, SCORES):
            return "has a client's score that is none"
    return ""


def _wrong_number(values: Mapping[str, Any], names: tuple[str, ...]) -> str:
    """Return the first of ``names`` whose value is neither a number nor null; empty if there is none."""
    return next((n for n in names if not isinstance(values.get(n), int | float | None)), "")
