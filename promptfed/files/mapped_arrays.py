"""Arrays of a safetensors file that stay on disk: the operating system brings in what is looked at."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from promptfed.errors import FormatError
from promptfed.files.atomic import write_bytes
from promptfed.readers.files import open_regular, shown
from promptfed.readers.json_reader import parse_json
from promptfed.readers.tensors import PREFIX, PROMPTS, read_header

SEAL = "sha256"
DTYPES: dict[str, Any] = {"I64": np.dtype("<i8"), "I32": np.dtype("<i4"), "U8": np.dtype("u1")}
CHUNK = 1 << 20

Array = NDArray[np.int64] | NDArray[np.int32] | NDArray[np.uint8]


def write_arrays(path: Path, arrays: Mapping[str, Array], about: Mapping[str, str]) -> None:
    """Write integer ``arrays`` as safetensors with a checksum, whole or not at all.

    Args:
        path: The file.
        arrays: Arrays by name, of int64, int32 or uint8.
        about: Texts that say what the file is.

    Raises:
        DiskError: The disk refuses.
    """
    blob = save(dict(arrays), dict(about))
    start = PREFIX + int.from_bytes(blob[:PREFIX], "little")
    digest = hashlib.sha256(memoryview(blob)[start:]).hexdigest()
    write_bytes(path, save(dict(arrays), {**about, SEAL: digest}))


def map_arrays(path: Path) -> tuple[dict[str, Array], dict[str, str]]:
    """Map what ``write_arrays`` wrote; only the checksum is computed, in pieces.

    Returns:
        Read-only arrays by name, and the texts with the checksum ``sha256``.

    Raises:
        FormatError: The file differs from what was written; the message names it.
        OSError: The operating system cannot read it.
    """
    infos = read_header(path)
    digest = hashlib.sha256()
    with open_regular(path) as file:
        length = int.from_bytes(file.read(PREFIX), "little")
        header = parse_json(file.read(length), PROMPTS.json)
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    about = header.pop("__metadata__", {})
    if about.get(SEAL) != digest.hexdigest():
        raise FormatError(f"'{shown(path)}' is damaged: its SHA-256 is not the one that was written")
    arrays: dict[str, Array] = {}
    for name, info in infos.items():
        if info.dtype not in DTYPES:
            raise FormatError(f"'{shown(path)}' holds '{name}' of type {info.dtype}, not one of {', '.join(DTYPES)}")
        if 0 in info.shape:  # an empty array cannot be mapped
            arrays[name] = np.zeros(info.shape, DTYPES[info.dtype])
            continue
        offset = PREFIX + length + header[name]["data_offsets"][0]
        arrays[name] = np.memmap(path, mode="r", dtype=DTYPES[info.dtype], offset=offset, shape=info.shape)
    return arrays, about
