"""Malformed updates, messages and files: what a stranger may send in the place of honest ones. For tests of readers.

Each function takes an honest original and yields mutants: those that somebody who means harm would think of, and
``count`` random ones. The same seed makes the same mutants. Nothing is read or run here. Checksums are the caller's:
who forges a file forges its checksum too. Files of tensors: ``malformed_tensors.py``.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from promptfed.prompt_state import PromptState
from promptfed.seeding import numpy_stream
from promptfed.types import Reply

NAMES = (
    "", "x" * 10_000, "\u202egnp.exe", "\x1b[2J\x1b]0;owned\x07", "two\nlines", "\x00", "../../etc/passwd",
    "/etc/passwd", "con", "[/b]", r"$\bad$", "{0.__class__}", "熊猫",
)  # fmt: skip
"""Empty, long, right to left, escape codes, line breaks, paths, markup of terminals, figures and formats, and a good
one."""
COUNTS: tuple[Any, ...] = (
    0, -1, True, 1.5, "12", None, [12], 10**18, 10**400, math.nan, math.inf, -math.inf, 1e308, -0.0, 5e-324,
)  # fmt: skip
VALUES: tuple[Any, ...] = (*COUNTS, *NAMES, False, [], {}, [[]], {"": {}}, [None] * 1_000)
"""In the place of any value of JSON."""
NUMBERS = {
    "NaN": math.nan, "infinity": math.inf, "minus infinity": -math.inf, "minus zero": -0.0, "denormal": 1e-45,
    "huge": 3e38,
}  # fmt: skip
DEPTH = 100_000
HOSTILE = (
    b"9" * 5_000, b"1e999", b"-1", b"NaN", b"null", b"[" * 3_000, b'{"a":' * 3_000, b"\x00", b"\xff\xfe", b"\\ud800",
    b"\\u0000", b'"a": 1, "a": 1,', b"[]", b"{}", b"&a [*a]", b"!!python/name:os.system x", b"\x1b[2J", b"\xe2\x80\xae",
)  # fmt: skip
"""Bytes that are put into a file."""


@dataclass(frozen=True)
class Mutant:
    """A file, and in a few words what is wrong with it."""

    kind: str
    content: bytes


@dataclass(frozen=True)
class RawArray:
    """An array of a message before it is decoded: what the message says of it, and the bytes of numpy's format."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes
    stored_as: str = "numpy.ndarray"

    @classmethod
    def of(cls, values: np.ndarray[Any, Any]) -> RawArray:
        """Return the honest one of ``values``."""
        return cls(str(values.dtype), tuple(values.shape), _npy(values))


@dataclass(frozen=True)
class RawMessage:
    """A message of a deployment before it is decoded: its words as JSON, and its arrays by name."""

    kind: str
    words: str
    arrays: Mapping[str, RawArray]


# ------------------------------------------------------------------------------------------------------ updates


def updates(reply: Reply) -> Iterator[tuple[str, Reply]]:
    """Yield replies made of an honest one: (what is wrong, the reply)."""
    tensors = dict(reply.update.shared)
    for kind, state in states(tensors):
        yield kind, replace(reply, update=replace(reply.update, shared=state))
    for name in ("samples", "loss", "accuracy", "client", "shared"):
        for value in COUNTS:
            yield f"{name} {brief(value)}", replace(reply, update=replace(reply.update, **{name: value}))
    for name in ("seconds", "start_seconds", "bytes_up", "bytes_down", "usage", "update", "personal"):
        for value in COUNTS:
            yield f"{name} {brief(value)}", replace(reply, **{name: value})
    for entry in fields(reply.usage):
        for value in COUNTS:
            yield f"{entry.name} {brief(value)}", replace(reply, usage=replace(reply.usage, **{entry.name: value}))
    for name in NAMES:
        yield f"figure {brief(name)}", replace(reply, processor_figures={name: 0.5})
        yield f"failure {brief(name)}", replace(reply, failure=f"error: {name}")


def states(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, PromptState]]:
    """Yield prompts with other numbers, types, shapes and names than ``tensors``: (what is wrong, the prompt)."""
    for name, tensor in tensors.items():
        others = {other: value for other, value in tensors.items() if other != name}
        for kind, changed in _tensors(tensor):
            yield f"{name}: {kind}", PromptState({**others, name: changed})
        yield f"without {name}", PromptState(others)
        for other in NAMES:
            yield f"{name} called {brief(other)}", PromptState({**others, other: tensor})
            yield f"one more called {brief(other)}", PromptState({**tensors, other: tensor})
    yield "nothing", PromptState()
    yield "2,000 names", PromptState({**tensors, **{f"t{number}": torch.zeros(0) for number in range(2_000)}})


def _tensors(tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    shape = tuple(tensor.shape)
    if tensor.is_floating_point():
        for kind, value in NUMBERS.items():
            yield f"all {kind}", torch.full(shape, value)
            one = tensor.clone()
            one.view(-1)[-1:] = value
            yield f"one {kind}", one
    for dtype in (torch.float64, torch.float16, torch.int64, torch.int8, torch.uint8, torch.bool, torch.complex64):
        yield f"{dtype}", torch.ones(shape, dtype=dtype)
    for other in ((), (0,), (0, *shape), (1, *shape), (*shape, 1), shape[::-1], (tensor.numel() + 1,), (1,) * 9):
        yield f"shape {other}", torch.ones(other, dtype=tensor.dtype)


# ----------------------------------------------------------------------------------------------------- messages


def messages(
    words: Mapping[str, Any], arrays: Mapping[str, np.ndarray[Any, Any]], seed: int, count: int
) -> Iterator[RawMessage]:
    """Yield messages made of an honest one, whose ``words`` are an object of JSON."""
    text, raw = json.dumps(words), {name: RawArray.of(values) for name, values in arrays.items()}
    for mutant in json_files(text.encode(), seed, count):
        yield RawMessage(f"words: {mutant.kind}", mutant.content.decode(errors="replace"), raw)
    for name, values in arrays.items():
        for kind, changed in _arrays(values):
            yield RawMessage(f"{name}: {kind}", text, {**raw, name: changed})
        yield RawMessage(f"without {name}", text, {other: array for other, array in raw.items() if other != name})
        for other in NAMES:
            yield RawMessage(f"one more called {brief(other)}", text, {**raw, other: raw[name]})
        yield RawMessage("2,000 arrays", text, {**raw, **{f"{name}{number}": raw[name] for number in range(2_000)}})


def _arrays(values: np.ndarray[Any, Any]) -> Iterator[tuple[str, RawArray]]:
    honest = RawArray.of(values)
    for kind, value in NUMBERS.items():
        yield kind, RawArray.of(np.full(values.shape, value, np.float32))
    for dtype in ("float64", "float16", "int64", "bool", "complex64", "U5", "S3", "V4", "O", "M8[s]"):
        yield f"of {dtype}", replace(honest, dtype=dtype)
        if dtype != "O":
            yield f"really of {dtype}", RawArray.of(np.zeros(values.shape, dtype))
    for shape in ((), (0,), (-1,), (10**10,), (10**6, 10**6), (2**62, 4), (1,) * 40, values.shape[::-1]):
        yield f"of shape {shape[:4]}", replace(honest, shape=shape)
        yield f"whose header has shape {shape[:4]}", replace(honest, data=_header(shape) + values.tobytes())
        yield f"with both of shape {shape[:4]}", replace(honest, shape=shape, data=_header(shape) + values.tobytes())
    for kind, data in {
        "empty": b"", "cut in its header": honest.data[:20], "cut off": honest.data[:-1], "longer": honest.data + b"\0",
        "a pickle": b"\x80\x04K\x01.", "version 3": b"\x93NUMPY\x03\x00" + honest.data[8:],
        "a header of code": _header((2,), b"__import__('os').system('true')"),
        "a deep header": _header((2,), b"(" * 2_000 + b")" * 2_000), "a long header": _header((2,), b" " * 60_000),
    }.items():  # fmt: skip
        yield kind, replace(honest, data=data)
    yield "stored as a pickle", replace(honest, stored_as="pickle")


def _header(shape: tuple[int, ...], text: bytes | None = None) -> bytes:
    """Return the start of a file of numpy's format 1.0 that says ``shape``, or ``text`` in the place of all it says."""
    said = repr({"descr": "<f4", "fortran_order": False, "shape": shape}).encode() if text is None else text
    return b"\x93NUMPY\x01\x00" + len(said).to_bytes(2, "little") + said


def _npy(values: np.ndarray[Any, Any]) -> bytes:
    stream = io.BytesIO()
    np.save(stream, values, allow_pickle=False)
    return stream.getvalue()


# ----------------------------------------------------------------------------------------------------- JSON, YAML


def json_files(original: bytes, seed: int, count: int) -> Iterator[Mutant]:
    """Yield files made of an honest one of JSON: values of other kinds, depth, keys twice, and random changes."""
    value = json.loads(original)
    for text in (b"", b"[]", b"null", b"{", b"1" * 5_000, b"[" * DEPTH, b'{"a":' * DEPTH, b"[" * DEPTH + b"]" * DEPTH,
                 b"\xef\xbb\xbf" + original, original + original, b"\xff" + original, original[:-2]):  # fmt: skip
        yield Mutant(brief(text), text)
    if isinstance(value, dict):
        for key, held in value.items():
            yield Mutant(f"without {brief(key)}", _json({name: other for name, other in value.items() if name != key}))
            yield Mutant(f"{brief(key)} twice", _json({key: held})[:-1] + b", " + _json(value)[1:])
            for other in VALUES:
                yield Mutant(f"{brief(key)} is {brief(other)}", _json({**value, key: other}))
        for name in NAMES:
            yield Mutant(f"one more key {brief(name)}", _json({**value, name: name}))
    stream = numpy_stream(seed, "malformed", "json")
    for _ in range(count // 2):
        yield Mutant("a value deep inside", _json(_replaced(value, stream)))
    yield from random_changes(original, seed, "json", count - count // 2)


def yaml_files(original: str, seed: int, count: int) -> Iterator[Mutant]:
    """Yield files made of an honest one of YAML, a mapping: bombs of aliases, depth, tags, keys twice, random ones."""
    letters = "abcdefghijkl"
    bomb = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"{name}: &{name} [{', '.join(['*' + before] * 9)}]\n" for before, name in pairwise(letters)
    )
    merges = "a: &a {" + ", ".join(f"k{number}: 1" for number in range(1_000)) + "}\nb: {<<: ["
    texts = {
        "a bomb of aliases": bomb, "a bomb below a key": f"{original}\ntask_options:\n  " + bomb.replace("\n", "\n  "),
        "a bomb of merges": merges + ", ".join(["*a"] * 500) + "]}", "an anchor in itself": "a: &a [*a]",
        "an alias of nothing": "a: *b", "many anchors": "".join(f"a{n}: &x{n} 1\n" for n in range(5_000)),
        "flow lists, deep": "a: " + "[" * 2_000 + "]" * 2_000, "flow mappings, deep": "{a: " * 2_000 + "}" * 2_000,
        "deeper": "a: " + "[" * DEPTH, "block lists, deep": "- " * DEPTH, "keys, deep": "? " * DEPTH,
        "blocks, deep": "".join(f"{' ' * n}a:\n" for n in range(1_000)), "too long": "a: " + "x" * 1_100_000,
        "python's object": "a: !!python/object/apply:os.system ['true']", "bytes": "a: !!binary aGk=",
        "a set": "a: !!set {x, y}", "a key twice": f"{original}\n{original}", "a list as a key": "? [1]\n: 2",
        "two documents": f"{original}\n---\n{original}", "a number of 5,000 digits": "seed: " + "9" * 5_000,
        "base 60": "seed: 190:20:30", "octal": "rounds: 0o17", "a NUL": "a: \x00", "a list": "- 1", "a text": "hello",
        "tabs": "a:\n\t- 1", "nothing": "", "a directive": "%YAML 9.9\n---\na: 1", "UTF-16": "",
    }  # fmt: skip
    for kind, text in texts.items():
        yield Mutant(kind, original.encode("utf-16") if kind == "UTF-16" else text.encode())
    keys = [line.partition(":")[0] for line in original.splitlines() if line[:1].isalpha()]
    for key in keys:
        rest = "\n".join(line for line in original.splitlines() if not line.startswith(key))
        for value in VALUES:
            yield Mutant(f"{key} is {brief(value)}", f"{rest}\n{key}: {json.dumps(value)}\n".encode())
    for name in NAMES:
        yield Mutant(f"one more key {brief(name)}", f"{original}\n{json.dumps(name)}: 1\n".encode())
    yield from random_changes(original.encode(), seed, "yaml", count)


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


def _replaced(value: Any, stream: np.random.Generator) -> Any:
    """Return ``value`` with one part, at any depth, replaced, removed or doubled."""
    whole = [json.loads(json.dumps(value))]
    places: list[tuple[Any, Any]] = [(whole, 0)]
    for holder, key in places:
        part = holder[key]
        if isinstance(part, dict | list) and len(places) < 5_000:
            places += [(part, name) for name in (part if isinstance(part, dict) else range(len(part)))]
    holder, key = places[int(stream.integers(len(places)))]
    act = int(stream.integers(8))
    if act == 0 and isinstance(holder, dict):
        del holder[key]
    elif act == 1:
        holder[key] = [holder[key]] * int(stream.choice([2, 100, 5_000]))
    elif act == 2 and isinstance(holder, dict):
        holder[NAMES[int(stream.integers(len(NAMES)))]] = holder.pop(key)
    else:
        holder[key] = VALUES[int(stream.integers(len(VALUES)))]
    return whole[0]


# ------------------------------------------------------------------------------------------------------- anything


def random_changes(content: bytes, seed: int, purpose: str, count: int) -> Iterator[Mutant]:
    """Yield ``count`` files in which bits are flipped, or a part is cut off, removed, doubled or put in."""
    stream = numpy_stream(seed, "malformed", purpose, "bytes")
    for _ in range(count if content else 0):
        start, end = sorted(int(place) for place in stream.integers(len(content) + 1, size=2))
        act = int(stream.integers(7))
        if act <= 1:
            changed = bytearray(content)
            for place in stream.integers(len(content), size=int(stream.choice([1, 1, 8]))):
                changed[int(place)] ^= 1 << int(stream.integers(8))
            yield Mutant("flipped bits", bytes(changed))
        elif act == 2:
            yield Mutant("cut off", content[:start])
        elif act == 3:
            yield Mutant("a part removed", content[:start] + content[end:])
        elif act == 4:
            yield Mutant(
                "a part doubled", content[:end] + content[start:end] * int(stream.choice([1, 50])) + content[end:]
            )
        elif act == 5:
            what = HOSTILE[int(stream.integers(len(HOSTILE)))]
            yield Mutant(
                f"{brief(what)} put in", content[:start] + what + content[start + int(stream.choice([0, 3])) :]
            )
        else:
            noise = stream.bytes(int(stream.choice([1, 4, 300])))
            yield Mutant("noise put in", content[:start] + noise + content[start:])


def brief(value: object) -> str:
    """Return ``value`` in a few characters of ASCII."""
    if isinstance(value, int) and abs(value) > 10**20:
        return f"10^{len(str(value)) - 1}"
    text = ascii(value)
    return text if len(text) <= 24 else f"{text[:16]}... ({len(text)})"
