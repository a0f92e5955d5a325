"""What is wrong with options, in one line."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from inspect import isclass
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from promptfed.printable import printable
from promptfed.privacy_options import PrivacyOptions

MOST_COMPLAINTS = 10
OWN = "Value error, "
"""How pydantic begins what our validators say, whose names keep their capitals."""


def complaints(error: ValidationError, model: type[BaseModel], kind: str) -> str:
    """Return what pydantic has to say about ``kind``s of ``model``, in one line: the first few of its complaints."""
    lines, problems = [], error.errors()
    for problem in problems[:MOST_COMPLAINTS]:
        name = printable(".".join(str(part) for part in problem["loc"]), 100)
        if problem["type"] == "extra_forbidden":
            lines.append(_unknown(name, sorted(_model_at(model, problem["loc"]).model_fields), kind))
        elif problem["type"] == "missing":
            lines.append(f"{kind} '{name}' is missing")
        else:
            said = problem["msg"]
            why = said.removeprefix(OWN) if said.startswith(OWN) else said[:1].lower() + said[1:]
            about = f"{kind} '{name}' is {printable(repr(problem['input']), 200)}" if name else f"{kind}s disagree"
            lines.append(f"{about}: {why}")
    more = len(problems) - len(lines)
    return "; ".join(lines) + (f"; and {more} more" if more else "")


def _unknown(name: str, fields: list[str], kind: str) -> str:
    near = difflib.get_close_matches(name.rpartition(".")[2], fields, n=1, cutoff=0.5)
    if kind == "option" and f"{name}_options" in fields:
        example = "dp=client" if name == "privacy" else "NAME=VALUE"
        return f"'{name}' is a group of options: write --set {name}.{example} (promptfed list options shows all)"
    hint = f"did you mean '{near[0]}'? " if near else ""
    if kind == "option" and not near and name.isidentifier():
        section = "privacy" if name in PrivacyOptions.model_fields else "method"
        hint = f"if it is one of the {section}, write --set {section}.{name}=VALUE; "
    place, colon, noun = kind.rpartition(": ")
    return f"{place}{colon}unknown {noun} '{name}': {hint}known are {', '.join(fields) or 'none'}"


def _model_at(model: type[BaseModel], place: Sequence[int | str]) -> type[BaseModel]:
    """Return the model whose field the last name of ``place`` should be, inside lists and mappings of models."""
    for part in place[:-1]:
        if part in model.model_fields:
            model = _inner_model(model.model_fields[str(part)].annotation) or model
    return model


def _inner_model(annotation: Any) -> type[BaseModel] | None:
    if isclass(annotation) and issubclass(annotation, BaseModel):
        return annotation
    return next((model for part in get_args(annotation) if (model := _inner_model(part))), None)
