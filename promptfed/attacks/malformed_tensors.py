"""Malformed files of tensors: safetensors, and files of ``torch.save`` of both formats."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from promptfed.attacks.malformed import DEPTH, NUMBERS, VALUES, Mutant, brief, random_changes, states

MANY = 6_000
"""Tensors of a file with too many, each without a number."""


# -------------------------------------------------------------------------------------------------- safetensors


def tensor_files(
    tensors: Mapping[str, Tensor], about: Mapping[str, str], seed: int, count: int, *, heavy: bool = False
) -> Iterator[Mutant]:
    """Yield safetensors files made of an honest one.

    Args:
        tensors: The tensors of the honest file.
        about: Its metadata.
        seed: The seed of the random ones.
        count: How many of those.
        heavy: Whether to yield also files of megabytes.
    """
    header, data = _described(tensors)
    whole = _packed({**({"__metadata__": dict(about)} if about else {}), **header}, data)
    for kind, state in states(tensors):
        if all(tensor.dtype != torch.complex64 for tensor in state.values()):
            yield Mutant(kind, _packed(*_described(state)))
    for name, entry in header.items():
        for key, values in LIES.items():
            for value in values:
                yield Mutant(
                    f"{name} with {key} {brief(value)}", _packed({**header, name: {**entry, key: value}}, data)
                )
            lacking = {other: value for other, value in entry.items() if other != key}
            yield Mutant(f"{name} without {key}", _packed({**header, name: lacking}, data))
        twice = json.dumps({name: entry})[:-1] + ", " + json.dumps({**header, "__end__": 1})[1:]
        yield Mutant(f"{name} twice", _packed(twice.encode(), data))
    for length in (0, 1, len(whole), 2**20 + 1, 10**9, 2**63, 2**64 - 1):
        yield Mutant(f"a header of {length} bytes", length.to_bytes(8, "little") + whole[8:])
    for text in (b"", b"[]", b"null", b"{", b"[" * DEPTH, b'{"a":' * DEPTH, b"{" + b" " * 2**20 + b"}", b"\xff" * 100):
        yield Mutant(f"a header that is {brief(text)}", _packed(text, data))
    for value in VALUES:
        yield Mutant(f"metadata {brief(value)}", _packed({**header, "__metadata__": value}, data))
    for kind, content in {"empty": b"", "7 bytes": whole[:7], "cut": whole[:-1], "longer": whole + b"\0"}.items():
        yield Mutant(kind, content)
    empty = {"dtype": "F32", "shape": [0], "data_offsets": [len(data)] * 2}
    for number in (MANY, *((49_000, 500_000) if heavy else ())):
        names = {f"t{k}": empty for k in range(number)}
        yield Mutant(f"{number} empty tensors", _packed({**header, **names}, data))
    yield from random_changes(whole, seed, "tensors", count)


LIES: dict[str, tuple[Any, ...]] = {
    "dtype": ("F64", "F16", "I64", "F8_E4M3", "C64", "F4", "object", "", "\x1b[2J", 1, None, ["F32"]),
    "shape": ([], [0], [-1], [1.0], [True], [10**10], [2**40, 2**40], [2**63], [1] * 99, "4", None, {"a": 1}),
    "data_offsets": ([], [0], [0, 0], [4, 0], [-4, 0], [0, 10**18], [1, 5], [0.0, 4.0], [True, 4], "0", None, {}),
}
"""What an entry of a header may say in the place of the truth."""


def _described(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Any], bytes]:
    kinds = {
        torch.float32: "F32", torch.float64: "F64", torch.float16: "F16", torch.int64: "I64", torch.int32: "I32",
        torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
    }  # fmt: skip
    header, data = {}, b""
    for name, tensor in tensors.items():
        values = tensor.numpy().tobytes()
        offsets = [len(data), len(data) + len(values)]
        header[name] = {"dtype": kinds[tensor.dtype], "shape": list(tensor.shape), "data_offsets": offsets}
        data += values
    return header, data


def _packed(header: Mapping[str, Any] | bytes, data: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


# ---------------------------------------------------------------------------------------------------- torch.save

PROGRAMS = {
    "calls a command": b"cos\nsystem\n(S'true'\ntR.",
    "imports a module": b"cantigravity\nx\n.",
    "calls getattr": b"c__builtin__\ngetattr\n(c__builtin__\nlist\nS'append'\ntR.",
    "makes an object": b"ccollections\nCounter\n)\x81.",
    "has a memo of 2^31": b"\x80\x02]r\xff\xff\xff\x7f.",
    "has a list in itself": b"\x80\x02]q\x00(" + b"h\x00" * 1_000 + b"e.",
    "has deep lists": b"]" * 50_000 + b"a" * 49_999 + b".",
    "has deep tuples": b"(" * 50_000 + b"t" * 50_000 + b".",
    "has a text of 2^32 - 1 letters": b"\x80\x02X\xff\xff\xff\xff.",
    "has a number of 2^31 bytes": b"\x80\x02\x8b\xff\xff\xff\x7f.",
    "has 2^63 bytes": b"\x80\x04\x8e" + b"\xff" * 7 + b"\x7f.",
    "is empty": b"",
    "has no end": b"\x80\x02}",
    "is a text": b"hello",
    "is a number": b"I7\n.",
    "is a list": b"].",
    "is a dictionary": b"}.",
}
"""Pickles in the place of the one that an archive should hold."""


def torch_files(tensors: Mapping[str, Tensor], wrapper: str, seed: int, count: int) -> Iterator[Mutant]:
    """Yield files of ``torch.save`` made of an honest one, of both formats; the older one names storages by addresses.

    Args:
        tensors: The tensors of the honest file.
        wrapper: The key under which the file has them; "" for none.
        seed: The seed of the random ones.
        count: How many of those.
    """

    def wrapped(content: Any) -> Any:
        return {wrapper: content} if wrapper else content

    for kind, state in states(tensors):
        yield Mutant(kind, _saved(wrapped(dict(state))))
    for name in tensors:
        for value in (*NUMBERS.values(), *VALUES, set(), (), b"x", 1j, range(3), torch.float32, torch.Size([2])):
            yield Mutant(f"{name} is {brief(value)}", _saved(wrapped({**tensors, name: value})))
        shape = tuple(tensors[name].shape)
        for kind, tensor in {
            "expanded": torch.zeros(1).expand(10**9), "without memory": torch.zeros(shape, device="meta"),
            "sparse": torch.zeros(shape).to_sparse(), "a parameter": torch.nn.Parameter(torch.ones(shape)),
            "a view": torch.zeros(1_000_000)[:3], "turned": torch.zeros(4, 3).T,
        }.items():  # fmt: skip
            yield Mutant(f"{name} {kind}", _saved(wrapped({**tensors, name: tensor})))
    for content in (None, 1, "x", [], {}, [dict(tensors)], {1: torch.zeros(1)}, {wrapper: 3}, torch.zeros(3)):
        yield Mutant(f"it is {brief(content)}", _saved(content))
    for is_zip in (True, False):
        whole = _saved(wrapped(dict(tensors)), is_zip)
        for kind, program in PROGRAMS.items():
            yield Mutant(f"its pickle {kind}", _archive(whole, {"data.pkl": program}) if is_zip else program)
        yield from random_changes(whole, seed, f"torch {is_zip}", count // 2)
    whole = _saved(wrapped(dict(tensors)))
    yield Mutant("compressed", _archive(whole, {}, zipfile.ZIP_DEFLATED))
    yield Mutant("a bomb", _archive(whole, {"data/0": bytes(50_000_000)}, zipfile.ZIP_DEFLATED))
    for part in ("data.pkl", "data/0", "byteorder"):
        yield Mutant(f"empty {part}", _archive(whole, {part: b""}))
        yield Mutant(f"{part} of another length", _archive(whole, {part: b"x" * 1_001}))
    yield Mutant("many files", _archive(whole, {f"data/x{number}": b"" for number in range(3_000)}))
    yield Mutant("an old pickle", pickle.dumps({"a": [1, 2]}))


def _saved(content: Any, is_zip: bool = True) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream, _use_new_zipfile_serialization=is_zip)
    return stream.getvalue()


def _archive(whole: bytes, parts: Mapping[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    """Return the archive ``whole`` written anew with other ``parts``, some of them perhaps its own."""
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(whole)) as old, zipfile.ZipFile(stream, "w", compression) as new:
        home = old.namelist()[0].partition("/")[0]
        for name in old.namelist():
            if name.partition("/")[2] not in parts:
                new.writestr(name, old.read(name))
        for name, content in parts.items():
            new.writestr(f"{home}/{name}", content)
    return stream.getvalue()
