"""safetensors, with the header checked before anything is decoded.

A header is JSON that anybody may write. Refused are: element types that promptfed neither writes nor imports (8-bit and
4-bit floats, complex numbers), one name twice, names that are not printable, too many tensors, shapes that do not fit
the bytes, gaps and overlaps.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from promptfed.errors import FormatError
from promptfed.printable import is_printable, printable
from promptfed.readers.files import MEGABYTE, open_regular, read_bytes, shown
from promptfed.readers.json_reader import JsonLimits, parse_json

ITEM_BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1,
}  # fmt: skip
"""Element types that are read, and the bytes of one element."""
LONGEST_NAME = 512
MOST_DIMENSIONS = 16
PREFIX = 8
"""Bytes before the header: its length."""
SMALL = 16 * MEGABYTE
"""Bytes of a file that is read before its header is checked."""
MOST_BYTES = 2_000 * MEGABYTE
"""Of a file of prompts or features that is read whole."""


@dataclass(frozen=True)
class TensorLimits:
    """How much is read: the ``header`` in bytes, the number of ``tensors``, and ``types`` with the bytes of each."""

    header: int
    tensors: int
    types: Mapping[str, int] = field(default_factory=lambda: ITEM_BYTES)

    @property
    def json(self) -> JsonLimits:
        """The limits of the header's JSON; a tensor is an object of ten values."""
        return JsonLimits(size=self.header, depth=4, values=10 * self.tensors + 1_000)


PROMPTS = TensorLimits(header=2**20, tensors=5_000)
"""Of a prompt, a bundle, an adapter of PEFT: low-rank factors of seven modules in 80 layers are 1,120 tensors."""
MODELS = TensorLimits(header=8 * MEGABYTE, tensors=50_000)
"""Of a whole model, and of a checkpoint, which may hold the personal prompts of thousands of clients."""
LIBRARY_MODELS = replace(
    MODELS, types={**ITEM_BYTES, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "U16": 2, "U32": 4, "U64": 8, "C64": 8}
)
"""Of a model that another library decodes, once its header is checked."""


@dataclass(frozen=True)
class TensorInfo:
    """What a header says of one tensor."""

    dtype: str
    shape: tuple[int, ...]


def parse_tensors(content: bytes, limits: TensorLimits = PROMPTS) -> dict[str, Tensor]:
    """Return the tensors of a safetensors buffer, by name.

    Raises:
        FormatError: it is not safetensors, or of a kind that is not read, or more than ``limits``; one line.
    """
    length = _header_length(content[:PREFIX], len(content), limits)
    _checked(content[PREFIX : PREFIX + length], len(content) - PREFIX - length, limits)
    try:
        return load(content)
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise FormatError(" ".join(str(error).split())) from error


def tensor_metadata(content: bytes, limits: TensorLimits = PROMPTS) -> dict[str, str]:
    """Return the metadata in the header of a safetensors buffer. Raises FormatError as ``parse_tensors`` does."""
    length = _header_length(content[:PREFIX], len(content), limits)
    header = parse_json(content[PREFIX : PREFIX + length], limits.json)
    metadata = header.get("__metadata__", {}) if isinstance(header, dict) else None
    _check_metadata(metadata)
    return dict(metadata or {})


def read_tensors(path: Path, limit: int = MOST_BYTES, limits: TensorLimits = PROMPTS) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file of at most ``limit`` bytes, by name.

    Raises:
        FormatError: naming the file, as ``parse_tensors`` does.
        OSError: the operating system cannot read it.
    """
    read_header(path, limits)  # before the rest is read: a damaged file costs no memory
    content = read_bytes(path, limit)
    try:
        return parse_tensors(content, limits)
    except FormatError as error:
        raise FormatError(f"'{shown(path)}' is not usable safetensors: {error}") from error


def read_tensor_bytes(path: Path, limit: int = MOST_BYTES, limits: TensorLimits = PROMPTS) -> bytes:
    """Return the bytes of a safetensors file, for a caller that has its checksum to compare.

    Of a large file the header is checked before the rest is read, so that a forged one costs no memory.

    Raises:
        FormatError: naming the file, if it is longer than ``limit``, or large and not what its header says.
        OSError: the operating system cannot read it.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
    if size > SMALL:
        read_header(path, limits)
    return read_bytes(path, limit)


def read_header(path: Path, limits: TensorLimits = PROMPTS) -> dict[str, TensorInfo]:
    """Return what the header of a safetensors file says, checked against the file's size; no tensor is read.

    Whoever opens the file afterwards with ``safe_open`` finds tensors of these types and shapes.

    Raises:
        FormatError: naming the file, as ``parse_tensors`` does.
        OSError: the operating system cannot read it.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        try:
            length = _header_length(file.read(PREFIX), size, limits)
            return _checked(file.read(length), size - PREFIX - length, limits)
        except FormatError as error:
            raise FormatError(f"'{shown(path)}' is not usable safetensors: {error}") from error


# ------------------------------------------------------------------------------------------------- internals


def _header_length(start: bytes, total: int, limits: TensorLimits) -> int:
    if len(start) < PREFIX:
        raise FormatError(f"it has {total} bytes, which is too short")
    length = int.from_bytes(start, "little")
    if length > limits.header:
        raise FormatError(f"its header would have {length:,} bytes; at most {limits.header:,} are read")
    if length > total - PREFIX:
        raise FormatError(f"its header would have {length:,} bytes, but {total - PREFIX:,} follow")
    return length


def _checked(header: bytes, data_bytes: int, limits: TensorLimits) -> dict[str, TensorInfo]:
    """Return the tensors that ``header`` names, which must fill ``data_bytes`` one after the other."""
    if not header.startswith(b"{"):
        raise FormatError("its header is not a JSON object")
    entries = parse_json(header, limits.json)
    _check_metadata(entries.pop("__metadata__", {}))
    if len(entries) > limits.tensors:
        raise FormatError(f"it holds {len(entries):,} tensors; at most {limits.tensors:,} are read")
    tensors: dict[str, TensorInfo] = {}
    spans = []
    for name, entry in entries.items():
        tensors[name], begin, end = _entry(name, entry, limits.types)
        spans.append((begin, end, name))
    offset = 0
    for begin, end, name in sorted(spans):
        if begin != offset:
            raise FormatError(
                f"tensor '{_shown(name)}' begins at byte {begin:,}, not at {offset:,} where the last ends"
            )
        offset = end
    if offset != data_bytes:
        raise FormatError(f"its tensors have {offset:,} bytes, but the file holds {data_bytes:,}")
    return tensors


def _check_metadata(metadata: Any) -> None:
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise FormatError("its metadata are not texts by name")


def _entry(name: str, entry: Any, types: Mapping[str, int]) -> tuple[TensorInfo, int, int]:
    shown_name = _shown(name)
    if len(name) > LONGEST_NAME:
        raise FormatError(f"a tensor's name has {len(name):,} characters; at most {LONGEST_NAME} are read")
    if not is_printable(name):
        raise FormatError(f"a tensor is called '{shown_name}': a name is made of printable characters")
    if not isinstance(entry, Mapping) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise FormatError(f"tensor '{shown_name}' is not described by dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in types:
        raise FormatError(
            f"tensor '{shown_name}' is of type {printable(dtype, 20)}; convert it to one of {', '.join(types)}"
        )
    if not _are_counts(shape) or len(shape) > MOST_DIMENSIONS:
        raise FormatError(f"tensor '{shown_name}' has no usable shape: {printable(shape, 60)}")
    if not _are_counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise FormatError(f"tensor '{shown_name}' has no usable data_offsets: {printable(offsets, 60)}")
    begin, end = offsets
    if prod(shape) * types[dtype] != end - begin:
        raise FormatError(
            f"tensor '{shown_name}' of shape {printable(shape, 60)} and type {dtype} has {end - begin:,} bytes"
        )
    return TensorInfo(dtype, tuple(shape)), begin, end


def _are_counts(values: Any) -> bool:
    return isinstance(values, list) and all(
        isinstance(value, int) and not isinstance(value, bool) and value >= 0 for value in values
    )


def _shown(name: str) -> str:
    return printable(name, 80)
