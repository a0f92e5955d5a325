"""Files of ``torch.save`` and TorchScript archives: their tensors and plain values, and nothing of their code.

Such a file is a pickle, a program that builds objects. Here it is carried out by a reader of our own that knows plain
values, containers and tensors in memory of their own. Refused are: any other object, tensors without memory (meta),
sparse or quantised ones, ones that are larger than what is stored for them (``expand``), compressed archives, and
files that name more than they hold. A TorchScript archive's modules are read as the values of their attributes; the
code beside them is never looked at.
"""

from __future__ import annotations

import errno
import io
import os
import pickle
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, NoReturn

import torch
from torch import Tensor

from promptfed.errors import FormatError
from promptfed.printable import printable
from promptfed.readers.files import MEGABYTE, open_regular, shown

MOST_PICKLE = 1 * MEGABYTE
"""Bytes of the program itself; the tensors' values stand beside it."""
MOST_DIRECTORY = 4 * MEGABYTE
"""Bytes of the list of an archive's files."""
SHARING = 4
"""Bytes of all tensors together, in bytes of the file: tied weights stand there once."""
LEGACY_MAGIC, LEGACY_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
DTYPES = {
    "FloatStorage": torch.float32, "DoubleStorage": torch.float64, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool,
}  # fmt: skip
"""Storages that are read."""
OPCODES = (
    "PROTO", "FRAME", "STOP", "MARK", "POP", "POP_MARK", "DUP", "NONE", "NEWTRUE", "NEWFALSE", "INT", "BININT",
    "BININT1", "BININT2", "LONG", "LONG1", "FLOAT", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
    "BINBYTES", "SHORT_BINBYTES", "BINSTRING", "SHORT_BINSTRING", "EMPTY_DICT", "EMPTY_LIST", "EMPTY_TUPLE", "LIST",
    "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "SETITEM", "SETITEMS", "APPEND", "APPENDS", "GET", "BINGET",
    "LONG_BINGET", "PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE", "GLOBAL", "STACK_GLOBAL", "NEWOBJ", "REDUCE", "BUILD",
    "BINPERSID",
)  # fmt: skip
"""What a pickle of tensors and plain values is made of."""


TORCHSCRIPT_LISTS = ("build_intlist", "build_tensorlist", "build_doublelist", "build_boollist", "restore_type_tag")


DAMAGE = (zipfile.BadZipFile, EOFError, RuntimeError, ValueError, OSError)
"""What zipfile raises for an archive that is torn or was tampered with; NotImplementedError is a RuntimeError."""


@dataclass
class Module:
    """A module of a TorchScript archive: the values of its attributes."""

    attributes: dict[str, Any] = field(default_factory=dict)


class Named(dict[Any, Any]):
    """What was an OrderedDict, without the attributes that a file may have put upon it."""


def read_torch(path: Path, limit: int) -> Any:
    """Return what ``torch.save`` wrote to ``path``: plain values, containers and tensors on the CPU.

    Args:
        path: a file of any version of torch, or a TorchScript archive, of which the outermost ``Module`` is returned.
        limit: bytes of all tensors together, and of the file.

    Raises:
        FormatError: naming the file and the reason; one line.
        OSError: the operating system cannot read it.
    """
    with open_regular(path) as file:
        try:
            size = os.fstat(file.fileno()).st_size
            if size > limit:
                raise FormatError(f"it has {size:,} bytes; at most {limit:,} are read here")
            is_zip = file.read(4) == b"PK\x03\x04"
            file.seek(0)
            return _read_archive(file, size, limit) if is_zip else _read_legacy(file, size, limit)
        except FormatError as error:
            raise FormatError(f"'{shown(path)}' is not a usable file of torch: {error}") from error


def named_tensors(module: Module) -> dict[str, Tensor]:
    """Return the parameters and buffers of a TorchScript archive by the names that ``state_dict`` gives them."""
    tensors: dict[str, Tensor] = {}
    waiting: list[tuple[str, Module]] = [("", module)]
    visited: set[int] = set()
    while waiting:
        prefix, part = waiting.pop()
        if id(part) in visited:
            continue
        visited.add(id(part))
        for name, value in part.attributes.items():
            if isinstance(value, Tensor):
                tensors[f"{prefix}{name}"] = value
            elif isinstance(value, Module):
                waiting.append((f"{prefix}{name}.", value))
    return dict(sorted(tensors.items()))


# --------------------------------------------------------------------------------------------- the two formats


def _read_archive(file: BinaryIO, size: int, limit: int) -> Any:
    try:
        end: Any = zipfile._EndRecData(file)  # type: ignore[attr-defined]
        if end is None or end[5] > MOST_DIRECTORY:
            raise FormatError("its archive is cut off, or holds too many files")
        with zipfile.ZipFile(file) as archive:
            parts = [part for part in archive.infolist() if "/code/" not in part.filename]
            if any(part.compress_type != zipfile.ZIP_STORED for part in parts if not _is_note(part.filename)):
                raise FormatError("its tensors are compressed, which torch.save never does")
            if sum(part.file_size for part in parts) > size:
                raise FormatError("its archive names more bytes than it has")
            files = {part.filename.partition("/")[2]: part for part in parts}
            if len(files) < len(parts):
                raise FormatError("its archive holds a name twice")
            if "data.pkl" not in files:
                raise FormatError("its archive holds no data.pkl")
            if "byteorder" in files and archive.read(files["byteorder"]) != b"little":
                raise FormatError("its numbers are not little-endian")
            return _Archive(archive, files, size, limit).value()
    except DAMAGE as error:
        if isinstance(error, FormatError) or (isinstance(error, OSError) and error.errno != errno.EINVAL):
            raise
        # a place before the beginning of the file is ValueError or EINVAL
        raise FormatError(f"its archive is damaged ({' '.join(str(error).split())[:160]})") from error


class _Archive:
    """A zip archive: the pickle ``data.pkl``, and the storages ``data/KEY``."""

    def __init__(self, archive: zipfile.ZipFile, files: Mapping[str, zipfile.ZipInfo], size: int, limit: int) -> None:
        self.archive, self.files = archive, files
        self.tensors = _Tensors(size, limit)

    def value(self) -> Any:
        part = self.files["data.pkl"]
        if part.file_size > MOST_PICKLE:
            raise FormatError(f"its pickle has {part.file_size:,} bytes; at most {MOST_PICKLE:,} are read")
        return _unpickled(io.BytesIO(self.archive.read(part)), self.tensors, self._storage)

    def _storage(self, dtype: torch.dtype, key: str, count: int) -> Tensor:
        part = self.files.get(f"data/{key}")
        if part is None or part.file_size != count * dtype.itemsize:
            raise FormatError(f"storage '{printable(key, 40)}' is missing, or not of the size that is named for it")
        content = bytearray(self.archive.read(part))
        return torch.frombuffer(content, dtype=dtype) if content else torch.empty(0, dtype=dtype)


def _read_legacy(file: BinaryIO, size: int, limit: int) -> Any:
    """Before torch 1.6: five pickles one after the other, then the storages in the order of the last pickle."""
    start = io.BytesIO(file.read(min(size, MOST_PICKLE)))
    tensors = _Tensors(size, limit)
    storages: dict[str, Tensor] = {}

    def storage(dtype: torch.dtype, key: str, count: int) -> Tensor:
        if sum(t.nbytes for t in storages.values()) + count * dtype.itemsize > size:
            raise FormatError("its storages would be larger than the file")
        return storages.setdefault(key, torch.empty(count, dtype=dtype))

    def step() -> Any:
        return _unpickled(start, tensors, storage)

    if step() != LEGACY_MAGIC or step() != LEGACY_PROTOCOL:
        raise FormatError("it begins like none: neither an archive nor the magic number of old versions")
    about = step()
    if not isinstance(about, dict) or about.get("little_endian") is not True:
        raise FormatError("its numbers are not little-endian")
    value, keys = step(), step()
    if not isinstance(keys, list) or sorted(map(str, keys)) != sorted(storages):
        raise FormatError("it does not list the storages that its tensors use")
    file.seek(start.tell())
    for key in keys:
        target = storages[str(key)]
        if int.from_bytes(file.read(8), "little") != len(target):
            raise FormatError(f"storage '{printable(key, 40)}' is not of the size that is named for it")
        content = file.read(target.nbytes)
        if len(content) != target.nbytes:
            raise FormatError("it is cut off")
        if content:
            target.copy_(torch.frombuffer(bytearray(content), dtype=target.dtype))
    return value


# ------------------------------------------------------------------------------------------------- the pickle

Storage = Callable[[torch.dtype, str, int], Tensor]


class _Tensors:
    """Makes tensors of storages, and counts their bytes: some may share a storage, but not thousands."""

    def __init__(self, size: int, limit: int) -> None:
        self.limit, self.total = min(limit, SHARING * size + 16 * MEGABYTE), 0

    def make(self, storage: Any, offset: Any, shape: Any, stride: Any, *_: Any) -> Tensor:
        """``torch._utils._rebuild_tensor_v2``."""
        if not isinstance(storage, Tensor) or not _is_count(offset):
            raise FormatError("a tensor has no storage")
        if not _are_counts(shape) or not _are_counts(stride) or len(shape) != len(stride) or len(shape) > 16:
            raise FormatError("a tensor has no usable shape")
        count = 1
        for extent in shape:
            count *= extent
        last = offset + sum((extent - 1) * step for extent, step in zip(shape, stride, strict=True))
        if count > len(storage):
            raise FormatError(
                f"a tensor of shape {printable(tuple(shape), 60)} has more values than the {len(storage):,} that are "
                "stored for it (expand): save it with .contiguous()"
            )
        if count and last >= len(storage):
            raise FormatError("a tensor goes beyond its storage")
        self.total += count * storage.itemsize
        if self.total > self.limit:
            raise FormatError(f"its tensors have more than {self.limit:,} bytes together")
        return torch.as_strided(storage, tuple(shape), tuple(stride), offset if count else 0)


_PythonUnpickler: Any = vars(pickle)["_Unpickler"]
"""Slower than that in C, whose memo a few bytes can make gigabytes large."""


class _Unpickler(_PythonUnpickler):
    """Finds inert functions of this file alone, calls nothing else, and changes nothing but dictionaries and lists.

    Whatever the program does, it makes plain values.
    """

    def __init__(self, file: io.BytesIO, tensors: _Tensors, storage: Storage) -> None:
        super().__init__(file, encoding="utf-8")
        self._open_storage = storage
        self._storages: dict[str, Tensor] = {}
        self._globals: dict[tuple[str, str], Any] = {
            ("torch._utils", "_rebuild_tensor_v2"): tensors.make,
            ("torch._utils", "_rebuild_parameter"): _first,
            ("collections", "OrderedDict"): Named,
            ("torch", "Size"): _size,
            ("_codecs", "encode"): _bytes,
            **{("torch.jit._pickle", name): _first for name in TORCHSCRIPT_LISTS},
        }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in self._globals:
            return self._globals[module, name]
        if module == "torch" and name in DTYPES:
            return DTYPES[name]
        if module.startswith("__torch__"):
            return Module
        raise FormatError(
            f"it holds a {printable(f'{module}.{name}', 80)}, which is no plain tensor and is never opened; save the "
            "state dict alone: torch.save({'state_dict': model.state_dict()}, FILE)"
        )

    def load_reduce(self) -> None:
        arguments, function = self.stack.pop(), self.stack[-1]
        if not any(function is allowed for allowed in self._globals.values()) or not isinstance(arguments, tuple):
            raise FormatError("its pickle calls what is no function")
        self.stack[-1] = function(*arguments) if function is not Named or not arguments else _refuse("items in a call")

    def load_newobj(self) -> None:
        self.stack.pop()
        if self.stack[-1] is not Module:
            raise FormatError("its pickle makes an object that is no module")
        self.stack[-1] = Module()

    def load_build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, Module) and isinstance(state, dict):
            target.attributes = state
        elif not isinstance(target, Named):
            raise FormatError("its pickle changes an object that is no module")

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set([key, value])

    def load_setitems(self) -> None:
        self._set(self.pop_mark())

    def _set(self, pairs: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict) or not all(isinstance(key, str | int) for key in pairs[::2]):
            raise FormatError("its pickle holds a dictionary with keys that are no names")
        target.update(zip(pairs[::2], pairs[1::2], strict=True))

    def load_append(self) -> None:
        value = self.stack.pop()
        self._list().append(value)

    def load_appends(self) -> None:
        values = self.pop_mark()
        self._list().extend(values)

    def _list(self) -> list[Any]:
        target = self.stack[-1]
        if not isinstance(target, list):
            raise FormatError("its pickle appends to what is no list")
        return target

    dispatch: ClassVar[dict[int, Any]] = {}

    def persistent_load(self, pid: Any) -> Tensor:
        if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage" or not isinstance(pid[1], torch.dtype):
            raise FormatError("a tensor has no storage of a type that is read")
        dtype, key, count = pid[1], str(pid[2]), pid[4]
        if not _is_count(count):
            raise FormatError("a storage has no size")
        if len(pid) > 5 and pid[5] is not None:
            raise FormatError("a storage is a part of another one: save the file again with torch 1.6 or later")
        if key not in self._storages:
            self._storages[key] = self._open_storage(dtype, key, count)
        storage = self._storages[key]
        if storage.dtype != dtype or len(storage) != count:
            raise FormatError(f"storage '{printable(key, 40)}' is described in two ways")
        return storage


for _name in OPCODES:
    _code = ord(getattr(pickle, _name))
    _Unpickler.dispatch[_code] = vars(_Unpickler).get(
        f"load_{_name.lower()}",
        _PythonUnpickler.dispatch[_code],
    )


def _unpickled(file: io.BytesIO, tensors: _Tensors, storage: Storage) -> Any:
    try:
        return _Unpickler(file, tensors, storage).load()
    except FormatError:
        raise
    except Exception as error:  # a damaged program ends in any of Python's own errors; it has run nothing of anybody's
        message = " ".join(str(error).split())[:160]
        raise FormatError(
            f"its pickle is damaged ({type(error).__name__}{': ' + message if message else ''})"
        ) from error


def _first(value: Any, *_: Any) -> Any:
    return value


def _bytes(text: Any, encoding: Any = "latin1") -> bytes:
    """Bytes as protocol 2 writes them."""
    if not isinstance(text, str) or encoding != "latin1":
        raise FormatError("its pickle holds bytes in a form that is not read")
    return text.encode("latin1")


def _is_note(name: str) -> bool:
    """Whether an archive's file is none of those that are read."""
    return name.partition("/")[2].partition("/")[0] not in ("data.pkl", "data", "byteorder")


def _refuse(what: str) -> NoReturn:
    raise FormatError(f"its pickle has {what}")


def _size(values: Any = ()) -> tuple[Any, ...]:
    return tuple(values)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**62


def _are_counts(values: Any) -> bool:
    return isinstance(values, tuple | list) and all(map(_is_count, values))


def state_dicts(value: Any) -> Iterator[Mapping[str, Tensor]]:
    """Yield ``value`` and what stands under its usual names, where that is a dictionary of tensors by name."""
    if isinstance(value, Module):
        yield named_tensors(value)
        return
    for candidate in (value, *(value.get(name) for name in STATE_KEYS)) if isinstance(value, dict) else ():
        if isinstance(candidate, dict) and any(isinstance(tensor, Tensor) for tensor in candidate.values()):
            yield {str(name): tensor for name, tensor in candidate.items() if isinstance(tensor, Tensor)}


STATE_KEYS = ("state_dict", "model", "module", "model_state_dict")
