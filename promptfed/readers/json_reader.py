"""JSON from files, lines and messages that others may have written.

Refused are: what is not UTF-8, what is too long, too deep or of too many values, an object with one key twice, numbers
that are not finite, integers beyond 64 bits, and strings with NUL or half of a surrogate pair, which no file name, no
database and no message takes.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from promptfed.errors import FormatError
from promptfed.printable import printable
from promptfed.readers.files import MEGABYTE, read_bytes, shown

LOWEST, HIGHEST = -(2**63), 2**64 - 1
"""Integers that are read."""
LONGEST_NUMBER = 400
"""Characters of a number that is read."""
STRANGE_ESCAPE = re.compile(r"\\u(?:0000|[dD][89a-fA-F])")
BRACKETS = re.compile(r"[\[\]{}]")


@dataclass(frozen=True)
class JsonLimits:
    """How much is read: ``size`` in bytes, ``depth`` of brackets, ``values`` (numbers, strings, lists, objects...)."""

    size: int = 16 * MEGABYTE
    depth: int = 64
    values: int = 500_000


LIMITS = JsonLimits()


def parse_json(
    content: bytes | str, limits: JsonLimits = LIMITS, *, finite: bool = True, any_strings: bool = False
) -> Any:
    """Return what the JSON text says.

    Args:
        content: UTF-8 with or without a byte-order mark, or a str.
        limits: what is more than this is refused before it is decoded.
        finite: refuse NaN and infinities. Numbers too large for a float are refused in any case.
        any_strings: read strings with NUL and halves of surrogate pairs, which a model may well write.

    Raises:
        FormatError: it is not JSON, or more than ``limits``; one line that names the place where there is one.
    """
    text = _text(content, limits)
    _check_extent(text, limits)
    try:
        value = json.JSONDecoder(
            object_pairs_hook=_object,
            parse_float=_float,
            parse_int=_integer,
            parse_constant=_not_finite if finite else float,
        ).decode(text)
    except RecursionError as error:
        raise FormatError("it is nested too deep") from error
    except json.JSONDecodeError as error:
        raise FormatError(f"{error.msg} at line {error.lineno}, column {error.colno}") from error
    if not any_strings and STRANGE_ESCAPE.search(text):
        for string in _strings(value):
            check_string(string)
    return value


def read_json(path: Path, limits: JsonLimits = LIMITS, *, finite: bool = True) -> Any:
    """Return what the JSON file says.

    Raises:
        FormatError: naming the file, as ``parse_json`` does.
        OSError: the operating system cannot read it.
    """
    content = read_bytes(path, limits.size)
    try:
        return parse_json(content, limits, finite=finite)
    except FormatError as error:
        raise FormatError(f"'{shown(path)}' is not usable JSON: {error}") from error


def check_string(string: str) -> None:
    """Raise FormatError for a string with NUL or half of a surrogate pair."""
    if "\0" in string:
        raise FormatError(f"the string '{printable(string, 40)}' holds a NUL character")
    try:
        string.encode()
    except UnicodeEncodeError as error:
        raise FormatError(f"the string '{printable(string, 40)}' holds half of a surrogate pair") from error


def check_integer(value: int) -> int:
    """Return ``value``. Raise FormatError if it is beyond 64 bits."""
    if not LOWEST <= value <= HIGHEST:
        raise FormatError(f"an integer is beyond 64 bits ({_digits(value)})")
    return value


# ------------------------------------------------------------------------------------------------- internals


def _text(content: bytes | str, limits: JsonLimits) -> str:
    if len(content) > limits.size:
        raise FormatError(f"it has {len(content):,} bytes; at most {limits.size:,} are read here")
    if isinstance(content, str):
        return content.removeprefix("\ufeff")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise FormatError(f"it is not UTF-8: byte 0x{content[error.start]:02x} at place {error.start}") from error


def _check_extent(text: str, limits: JsonLimits) -> None:
    """Depth and number of values, from the brackets and commas that stand outside strings."""
    openings = text.count("[") + text.count("{")
    if openings <= limits.depth and openings + text.count(",") < limits.values:
        return
    plain = text.replace("\\\\", "").replace('\\"', "")
    if plain.count('"') > 4 * limits.values:  # each value has two, and its key two more
        raise FormatError(f"it holds more than {limits.values:,} values")
    outside = "".join(plain.split('"')[::2])
    values = 1 + outside.count("[") + outside.count("{") + outside.count(",")
    if values > limits.values:
        raise FormatError(f"it holds {values:,} values; at most {limits.values:,} are read here")
    depth = 0
    for bracket in BRACKETS.finditer(outside):
        depth += 1 if bracket[0] in "[{" else -1
        if depth > limits.depth:
            raise FormatError(f"it is nested deeper than {limits.depth} levels")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        names: set[str] = set()
        for key, _ in pairs:
            if key in names:
                raise FormatError(f"an object has the key '{printable(key, 40)}' twice")
            names.add(key)
    return value


def _integer(digits: str) -> int:
    if len(digits) > 20:
        raise FormatError(f"an integer is beyond 64 bits ({len(digits):,} digits)")
    return check_integer(int(digits))


def _float(digits: str) -> float:
    if len(digits) > LONGEST_NUMBER:
        raise FormatError(f"a number has {len(digits):,} characters; at most {LONGEST_NUMBER} are read")
    value = float(digits)
    if not math.isfinite(value):
        raise FormatError(f"the number {digits[:40]} is too large")
    return value


def _not_finite(name: str) -> NoReturn:
    raise FormatError(f"{name} is not a finite number")


def _digits(value: int) -> str:
    return f"{value.bit_length():,} bits"


def _strings(value: Any) -> Iterator[str]:
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, str):
            yield item
        elif isinstance(item, dict):
            yield from item
            waiting.extend(item.values())
        elif isinstance(item, list):
            waiting.extend(item)
