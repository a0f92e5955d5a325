"""JSON objects that carry a checksum of their own, so that one flipped bit is seen."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

from promptfed.errors import FormatError
from promptfed.files import strict_json
from promptfed.readers.json_reader import parse_json

SEAL = "checksum"
"""The key of the checksum: the SHA-256 of the rest, with sorted keys and without blanks."""


def sealed_json(value: Mapping[str, Any]) -> bytes:
    """Return ``value`` as JSON with its checksum; NaN and infinities become null.

    Raises:
        TypeError: It holds a value that JSON cannot have (a tensor, a path).
    """
    plain = plain_json(value)
    return (strict_json.dumps({**plain, SEAL: checksum(plain)}, indent=2) + "\n").encode()


def plain_json(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``value`` as it is read back from a file of JSON."""
    plain: dict[str, Any] = json.loads(strict_json.dumps(dict(value)))
    return plain


def opened_json(content: bytes, on_other: Callable[[Mapping[str, Any]], None] | None = None) -> dict[str, Any]:
    """Return the object that ``sealed_json`` made.

    Args:
        content: The bytes of the file.
        on_other: Is shown an object whose checksum is absent or wrong; may raise an error that says more.

    Raises:
        FormatError: It is no JSON object, or not the one that was written.
    """
    value = parse_json(content)
    if not isinstance(value, dict):
        raise FormatError(f"it must hold a JSON object, not a {type(value).__name__}")
    seal = value.pop(SEAL, None)
    if seal == checksum(value):
        return value
    if on_other is not None:
        on_other(value)
    raise FormatError("it has no checksum" if seal is None else "its checksum is not that of its content")


def checksum(value: Mapping[str, Any]) -> str:
    """Return the hex SHA-256 of an object of JSON values."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
