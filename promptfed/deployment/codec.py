"""Messages and prompts as Flower's records, and back: arrays in one ArrayRecord, all else as one JSON string.

Nothing is pickled. What arrives is checked before it is used: anything else than a well-formed message of the kind
that is waited for raises DeploymentError.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from pydantic import ValidationError

from promptfed.deployment.messages import Problem, Words
from promptfed.errors import ConfigError, DeploymentError, FormatError
from promptfed.prompts import PromptState
from promptfed.readers.json_reader import parse_json

try:
    from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
except ImportError as error:
    raise ConfigError(
        f"engine 'flower' needs Flower, which is not installed here ({error}): pip install 'promptfed[flower]'"
    ) from error

W = TypeVar("W", bound=Words)
ARRAYS, ABOUT, JSON = "arrays", "about", "json"
STORED_AS = "numpy.ndarray"
DTYPES = ("float32", "int8", "int16", "int32", "int64", "uint8")
"""What a prompt's tensors may be."""


@dataclass(frozen=True)
class Parcel(Generic[W]):
    """A message with the prompts that came with it. ``started``: seconds until its sender was ready to work."""

    words: W
    parts: Mapping[str, PromptState]
    started: float | None = field(default=None)

    def part(self, name: str) -> PromptState:
        """Raises DeploymentError if no prompt of that name came with the message."""
        if name not in self.parts:
            raise DeploymentError(f"a {type(self.words).__name__} message came without its '{name}' prompt")
        return self.parts[name]


def pack(words: Words, started: float | None = None, **parts: PromptState) -> RecordDict:
    """``words`` and prompts, ready to be sent."""
    about = {
        "kind": type(words).__name__,
        "words": words.model_dump(mode="json"),
        "parts": {part: list(state) for part, state in parts.items()},
        "started": started,
    }
    arrays = {f"{part}/{name}": Array(t.numpy()) for part, state in parts.items() for name, t in state.items()}
    return RecordDict({ARRAYS: ArrayRecord(arrays), ABOUT: ConfigRecord({JSON: json.dumps(about)})})


def unpack(content: RecordDict, kind: type[W]) -> Parcel[W]:
    """What ``pack`` made. Raises DeploymentError if it is a Problem (with its words), or not a ``kind`` message."""
    about, arrays = _records(content)
    given = about.get("kind")
    if given == Problem.__name__:
        raise DeploymentError(_words(Problem, about).why)
    if given != kind.__name__:
        raise DeploymentError(f"a message is a {given!r}, not the {kind.__name__} that was waited for")
    started = about.get("started")
    if started is not None and not isinstance(started, int | float):
        raise DeploymentError(f"a {kind.__name__} message says it began after {started!r} seconds")
    return Parcel(_words(kind, about), _parts(about, arrays), started)


def kind_of(content: RecordDict) -> str:
    """The name of the message's kind. Raises DeploymentError for what is no message."""
    return str(_records(content)[0].get("kind"))


def wire_bytes(content: Any) -> int:
    """Bytes of all the objects that Flower takes ``content`` apart into when it sends it, by its own serialisation."""
    return len(content.deflate()) + sum(map(wire_bytes, (content.children or {}).values()))


# ------------------------------------------------------------------------------------------------- internals


def _records(content: RecordDict) -> tuple[dict[str, Any], ArrayRecord]:
    arrays, about = content.get(ARRAYS), content.get(ABOUT)
    if not isinstance(arrays, ArrayRecord) or not isinstance(about, ConfigRecord) or len(content) != 2:
        raise DeploymentError(f"a message holds the records {sorted(content)}, not '{ABOUT}' and '{ARRAYS}'")
    try:
        found = parse_json(str(about.get(JSON)), finite=False, any_strings=True)
    except FormatError as error:
        raise DeploymentError(f"a message is not usable JSON: {error}") from error
    if not isinstance(found, dict):
        raise DeploymentError(f"a message is a JSON {type(found).__name__}, not an object")
    return found, arrays


def _words(kind: type[W], about: Mapping[str, Any]) -> W:
    try:
        return kind.model_validate_json(json.dumps(about.get("words")))
    except ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(map(str, problem['loc'])) or 'all'}: {problem['msg'].lower()}" for problem in error.errors()[:3]
        )
        raise DeploymentError(f"a {kind.__name__} message is wrong in {wrong}") from error


def _parts(about: Mapping[str, Any], arrays: ArrayRecord) -> dict[str, PromptState]:
    named = about.get("parts")
    if not isinstance(named, dict) or not all(isinstance(names, list) for names in named.values()):
        raise DeploymentError("a message does not say which prompts it holds")
    wanted = [f"{part}/{name}" for part, names in named.items() for name in names]
    if sorted(wanted) != sorted(arrays):
        raise DeploymentError(f"a message names the arrays {sorted(wanted)} and holds {sorted(arrays)}")
    return {
        part: PromptState({name: _tensor(f"{part}/{name}", arrays[f"{part}/{name}"]) for name in names})
        for part, names in named.items()
    }


def _tensor(name: str, array: Array) -> torch.Tensor:
    if array.stype != STORED_AS or array.dtype not in DTYPES:
        raise DeploymentError(f"array '{name}' is {array.stype} of {array.dtype}, not {STORED_AS} of {DTYPES}")
    try:
        values = array.numpy()  # without unpickling
    except Exception as error:  # numpy raises many kinds for bytes that are no array
        raise DeploymentError(f"array '{name}' cannot be read: {error}") from error
    if str(values.dtype) != array.dtype or values.shape != tuple(array.shape):
        raise DeploymentError(f"array '{name}' is {values.dtype} {values.shape}, not what its message says")
    return torch.from_numpy(np.array(values, copy=True, order="C"))
