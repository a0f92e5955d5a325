"""Read a folder of PEFT, of anybody: nothing in it is run, and sizes are checked before anything is decoded."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from promptfed.errors import FormatError
from promptfed.peft_format.adapter import Adapter, check_shapes, is_beside
from promptfed.peft_format.config import AdapterConfig, read_config
from promptfed.peft_format.names import CONFIG, OLD_WEIGHTS, WEIGHTS
from promptfed.printable import printable
from promptfed.readers.files import shown
from promptfed.readers.tensors import MOST_BYTES, read_header, read_tensors
from promptfed.readers.torch_files import read_torch

FLOATS = ("F64", "F32", "F16", "BF16")
MOST_NUMBERS = MOST_BYTES // 4
"""Numbers of all tensors together: they are kept as float32."""


def is_adapter(folder: Path) -> bool:
    """Whether ``folder`` holds an adapter of PEFT."""
    return (folder / CONFIG).is_file()


def read_adapter(folder: Path) -> Adapter:
    """Return the adapter in ``folder``, its tensors as float32 on the CPU.

    Args:
        folder: One that PEFT's ``save_pretrained`` wrote, or ``write_adapter``: adapter_config.json and
            adapter_model.safetensors, or adapter_model.bin of older versions, whose pickle is never run.

    Raises:
        FormatError: It is none, of a kind that is not read, or damaged; one line that names the file.
    """
    try:
        config = read_config(folder)
        if (folder / WEIGHTS).exists() or not (folder / OLD_WEIGHTS).exists():
            return _from_safetensors(config, folder / WEIGHTS)
        return _from_torch(config, folder / OLD_WEIGHTS)
    except OSError as error:
        why = "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror or error})"
        raise FormatError(
            f"'{shown(folder)}' is no adapter of PEFT: {shown(error.filename or folder)} {why}"
        ) from error


# ------------------------------------------------------------------------------------------------- internals


def _from_safetensors(config: AdapterConfig, path: Path) -> Adapter:
    header = read_header(path)
    try:
        if strange := [name for name, info in header.items() if info.dtype not in FLOATS]:
            raise FormatError(f"holds '{printable(strange[0], 80)}' of type {header[strange[0]].dtype}, not of floats")
        _check({name: info.shape for name, info in header.items()}, config)
        return _adapter(config, read_tensors(path))
    except FormatError as error:
        raise _naming(path, error) from error


def _from_torch(config: AdapterConfig, path: Path) -> Adapter:
    content: Any = read_torch(path, MOST_BYTES)
    try:
        if not isinstance(content, Mapping) or not all(
            isinstance(name, str) and isinstance(value, Tensor) and value.is_floating_point()
            for name, value in content.items()
        ):
            raise FormatError("holds no tensors of floats by name")
        _check({name: tuple(tensor.shape) for name, tensor in content.items()}, config)
        return _adapter(config, content)
    except FormatError as error:
        raise _naming(path, error) from error


def _naming(path: Path, error: FormatError) -> FormatError:
    return error if str(error).startswith("'") else FormatError(f"'{shown(path)}' {error}")


def _check(shapes: Mapping[str, tuple[int, ...]], config: AdapterConfig) -> None:
    numbers = sum(math.prod(shape) for shape in shapes.values())
    if numbers > MOST_NUMBERS:
        raise FormatError(f"holds {numbers:,} numbers; at most {MOST_NUMBERS:,} are read")
    check_shapes(config, {name: shape for name, shape in shapes.items() if not is_beside(name)})


def _adapter(config: AdapterConfig, tensors: Mapping[str, Tensor]) -> Adapter:
    values = {name: tensor.to(torch.float32) for name, tensor in tensors.items() if not is_beside(name)}
    if infinite := [name for name, tensor in values.items() if not torch.isfinite(tensor).all()]:
        raise FormatError(f"holds numbers that are not finite in '{printable(infinite[0], 120)}'")
    return Adapter(config, values, tuple(sorted(set(tensors) - set(values))))
