"""Encode messages and prompts as Flower's records: arrays in one ArrayRecord, all else as one JSON string.

Nothing is pickled. Every message is checked before it is used: anything but a well-formed message of the expected kind
raises DeploymentError. Sizes, names and shapes are checked before any array is decoded. The words of a message are
checked field by field (promptfed.deployment.fields).
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np
import torch

from promptfed.deployment.fields import LONGEST_SECONDS
from promptfed.deployment.messages import ErrorReply, Message
from promptfed.errors import DeploymentError, FormatError, MissingPackageError
from promptfed.printable import is_printable, printable
from promptfed.prompt_state import PromptState
from promptfed.readers.json_reader import JsonLimits, parse_json

try:
    from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
except ImportError as error:
    raise MissingPackageError(
        f"engine 'flower' needs Flower, which is not installed here ({error}): pip install 'promptfed[flower]'"
    ) from error

W = TypeVar("W", bound=Message)
ARRAYS, ABOUT, JSON = "arrays", "about", "json"
STORED_AS = "numpy.ndarray"
DTYPES = ("float32", "int8", "int16", "int32", "int64", "uint8")
"""Types that the tensors of a prompt may have."""
LIMITS = JsonLimits(size=16_000_000, depth=32)
"""Limits of the words of a message; 10,000 names of 64 letters fit."""
MOST_TENSORS, MOST_DIMENSIONS, LONGEST_TENSOR_NAME = 1_000, 8, 200
LARGEST_PROMPT = 1_000_000_000
"""Bytes of all tensors of a message."""
LONGEST_HEADER = 10_000
"""Characters of numpy's own header."""


@dataclass(frozen=True)
class Envelope(Generic[W]):
    """A message with its prompts.

    Attributes:
        words: The message.
        parts: The prompts by name.
        started: Seconds until the sender was ready to work.
    """

    words: W
    parts: Mapping[str, PromptState]
    started: float | None = field(default=None)

    def part(self, name: str) -> PromptState:
        """Return the prompt ``name`` of the message. Raise DeploymentError if there is none."""
        if name not in self.parts:
            raise DeploymentError(f"a {type(self.words).__name__} message came without its '{name}' prompt")
        return self.parts[name]


def pack(words: Message, started: float | None = None, **parts: PromptState) -> RecordDict:
    """Encode a message and its prompts.

    Args:
        words: The message.
        started: Seconds until this side was ready to work.
        parts: The prompts by name.
    """
    about = {
        "kind": type(words).__name__,
        "words": words.model_dump(mode="json"),
        "parts": {part: list(state) for part, state in parts.items()},
        "started": started,
    }
    arrays = {f"{part}/{name}": Array(t.numpy()) for part, state in parts.items() for name, t in state.items()}
    return RecordDict({ARRAYS: ArrayRecord(arrays), ABOUT: ConfigRecord({JSON: json.dumps(about)})})


def unpack(content: RecordDict, kind: type[W], most_bytes: int | None = None) -> Envelope[W]:
    """Decode what ``pack`` encoded.

    Args:
        content: The message as it arrived.
        kind: The kind of message to expect.
        most_bytes: The bytes that its prompts may have together; None sets ``LARGEST_PROMPT``.

    Raises:
        DeploymentError: It is an ``ErrorReply``, whose reason is the error, or not a well-formed ``kind`` message.
    """
    about, arrays = _records(content)
    kind_name = about.get("kind")
    if kind_name == ErrorReply.__name__:
        raise DeploymentError(_words(ErrorReply, about).why)
    if kind_name != kind.__name__:
        raise DeploymentError(f"a message is a {_brief(kind_name)}, not the expected {kind.__name__}")
    started = about.get("started")
    is_number = isinstance(started, int | float) and not isinstance(started, bool)
    if started is not None and not (is_number and 0 <= started <= LONGEST_SECONDS):
        raise DeploymentError(f"a {kind.__name__} message says it began after {_brief(started)} seconds")
    largest = LARGEST_PROMPT if most_bytes is None else min(most_bytes, LARGEST_PROMPT)
    return Envelope(_words(kind, about), _parts(about, arrays, largest), None if started is None else float(started))


def kind_of(content: RecordDict) -> str:
    """Return the name of the message's kind. Raise DeploymentError if it is no message."""
    return str(_records(content)[0].get("kind"))


def wire_bytes(content: Any) -> int:
    """Return the bytes that Flower sends for ``content``, by its own serialisation."""
    return len(content.deflate()) + sum(map(wire_bytes, (content.children or {}).values()))


# ------------------------------------------------------------------------------------------------- internals


def _records(content: RecordDict) -> tuple[dict[str, Any], ArrayRecord]:
    arrays, about = content.get(ARRAYS), content.get(ABOUT)
    if not isinstance(arrays, ArrayRecord) or not isinstance(about, ConfigRecord) or len(content) != 2:
        raise DeploymentError(f"a message holds the records {_list(content)}, not '{ABOUT}' and '{ARRAYS}'")
    text = about.get(JSON)
    if not isinstance(text, str) or len(about) != 1:
        raise DeploymentError(f"a message's words are no text but {_list(about)}")
    try:
        message = parse_json(text, LIMITS, any_strings=True)
    except FormatError as error:
        raise DeploymentError(f"a message's words are refused: {printable(error, 200)}") from error
    if not isinstance(message, dict):
        raise DeploymentError(f"a message is a JSON {type(message).__name__}, not an object")
    return message, arrays


def _words(kind: type[W], about: Mapping[str, Any]) -> W:
    return kind.read(json.dumps(about.get("words")))


def _parts(about: Mapping[str, Any], arrays: ArrayRecord, largest: int) -> dict[str, PromptState]:
    names_by_part = about.get("parts")
    if not isinstance(names_by_part, dict) or not all(isinstance(names, list) for names in names_by_part.values()):
        raise DeploymentError("a message does not say which prompts it holds")
    if not all(isinstance(name, str) for names in names_by_part.values() for name in names):
        raise DeploymentError("a message calls an array by what is no name")
    if (count := max(len(arrays), sum(map(len, names_by_part.values())))) > MOST_TENSORS:
        raise DeploymentError(f"a message holds {count} arrays; {MOST_TENSORS} are the most")
    array_names = [f"{part}/{name}" for part, names in names_by_part.items() for name in names]
    if sorted(array_names) != sorted(arrays) or len(set(array_names)) < len(array_names):
        raise DeploymentError(f"a message names the arrays {_list(array_names)} and holds {_list(arrays)}")
    for name, array in arrays.items():
        _check(name, array)
    if (size := sum(len(array.data) for array in arrays.values())) > largest:
        raise DeploymentError(f"a message holds {size:,} bytes of arrays; {largest:,} are the most")
    return {
        part: PromptState({name: _tensor(f"{part}/{name}", arrays[f"{part}/{name}"]) for name in names})
        for part, names in names_by_part.items()
    }


def _check(name: str, array: Array) -> None:
    """Raise DeploymentError for an array with a name, a type or a shape that no prompt has."""
    if not is_printable(name) or len(name) > LONGEST_TENSOR_NAME:
        raise DeploymentError(
            f"an array is called {_brief(name)}: {LONGEST_TENSOR_NAME} printable letters are the most"
        )
    if array.stype != STORED_AS or array.dtype not in DTYPES:
        kind = f"{_brief(array.stype)} of {_brief(array.dtype)}"
        raise DeploymentError(f"array '{name}' is {kind}, not {STORED_AS} of {DTYPES}")
    if len(array.shape) > MOST_DIMENSIONS or any(size < 0 for size in array.shape):
        raise DeploymentError(f"array '{name}' has the shape {_brief(tuple(array.shape))}")


def _tensor(name: str, array: Array) -> torch.Tensor:
    stream = io.BytesIO(array.data)
    try:
        version = np.lib.format.read_magic(stream)
        if version != (1, 0):
            raise ValueError(f"format {version}")
        shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(stream, max_header_size=LONGEST_HEADER)
    except Exception as error:  # numpy raises many kinds for bytes that are no array
        raise DeploymentError(f"array '{name}' cannot be read: {printable(error, 200)}") from error
    values = array.data[stream.tell() :]
    if str(dtype) != array.dtype or shape != tuple(array.shape):
        raise DeploymentError(f"array '{name}' is {_brief(dtype)} {_brief(shape)}, not what its message says")
    if len(values) != math.prod(shape) * dtype.itemsize:
        raise DeploymentError(f"array '{name}' has {len(values)} bytes, which are not {_brief(shape)} of {dtype}")
    order: Any = "F" if is_fortran else "C"
    return torch.from_numpy(np.array(np.frombuffer(values, dtype).reshape(shape, order=order), copy=True, order="C"))


def _brief(value: object) -> str:
    if isinstance(value, int) and value.bit_length() > 200:
        return f"an integer of {value.bit_length()} bits"
    return printable(repr(value), 60)


def _list(names: Iterable[object]) -> str:
    """List the first five of ``names``, each shortened."""
    labels = sorted(map(_brief, names))
    return f"[{', '.join(labels[:5])}{f' and {len(labels) - 5} more' if len(labels) > 5 else ''}]"
