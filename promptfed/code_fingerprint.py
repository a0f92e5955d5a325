"""The SHA-256 of a function or class that a user hands over: by it a run knows the code again."""

from __future__ import annotations

import dis
import hashlib
import inspect
import types
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from promptfed.backbones.base import hash_tensors

PLAIN = (str, bytes, int, float, bool, type(None))
DEEPEST = 6
"""Functions that call functions that call functions: so far the code is followed."""


def code_sha256(thing: Any) -> str:
    """Return the hex SHA-256 of the code of a function, class or callable object.

    It covers the source (or the byte code, where there is no source), defaults, what a closure holds, and the plain
    values, arrays, models and functions of the same module that the code names. What the code reads elsewhere, such as
    a server, is not seen.
    """
    return hashlib.sha256("\n".join(_lines(thing, DEEPEST, set())).encode("utf-8", "surrogateescape")).hexdigest()


def _lines(thing: Any, depth: int, seen: set[int]) -> Iterator[str]:
    if isinstance(thing, types.MethodType):
        yield from _lines(thing.__func__, depth, seen)
        yield from _value("self", thing.__self__, depth, seen)
    elif isinstance(thing, types.FunctionType):
        if id(thing) in seen:
            return
        seen.add(id(thing))
        yield _source(thing) or _code(thing.__code__)
        yield from _value("defaults", (thing.__defaults__, thing.__kwdefaults__), depth, seen)
        for name, cell in zip(thing.__code__.co_freevars, thing.__closure__ or (), strict=True):
            try:
                yield from _value(name, cell.cell_contents, depth, seen)
            except ValueError:  # not set yet
                yield f"{name} is empty"
        for name in _globals(thing.__code__):
            if name in thing.__globals__:
                yield from _value(name, thing.__globals__[name], depth, seen, module=thing.__module__)
    elif isinstance(thing, type):
        yield _source(thing) or "|".join(
            f"{name}:{_code(member.__code__)}"
            for name, member in sorted(vars(thing).items())
            if isinstance(member, types.FunctionType)
        )
    else:
        yield from _value("object", thing, depth, seen)


def _value(name: str, value: Any, depth: int, seen: set[int], module: str | None = None) -> Iterator[str]:
    """Lines about a value that code names; of functions and classes only those of its own ``module``, if it is said."""
    if isinstance(value, PLAIN):
        yield f"{name}={value!r}"
    elif depth == 0:
        return
    elif isinstance(value, tuple | list):
        for i, part in enumerate(value):
            yield from _value(f"{name}[{i}]", part, depth - 1, seen)
    elif isinstance(value, dict):
        for key, part in value.items():
            yield from _value(f"{name}[{key!r}]", part, depth - 1, seen)
    elif isinstance(value, torch.Tensor):
        yield f"{name}={hash_tensors([('', value)])}"
    elif isinstance(value, np.ndarray):
        yield f"{name}={value.dtype}{value.shape}{hashlib.sha256(value.tobytes()).hexdigest()}"
    elif isinstance(value, torch.nn.Module):
        yield f"{name}={hash_tensors(value.state_dict().items())}"
    elif isinstance(value, types.ModuleType):
        yield f"{name} is module {value.__name__}"
    elif isinstance(value, types.FunctionType | types.MethodType | type):
        if module is None or getattr(value, "__module__", None) == module:
            yield from _lines(value, depth - 1, seen)
        else:
            yield f"{name} is {value.__module__}.{value.__qualname__}"
    elif id(value) not in seen:
        seen.add(id(value))
        yield f"{name} is of {type(value).__module__}.{type(value).__qualname__}"
        if type(value).__module__ == module or name in ("object", "self"):
            yield from _lines(type(value), depth - 1, seen)
            yield from _value(f"{name}.", getattr(value, "__dict__", {}), depth - 1, seen)


def _source(thing: Any) -> str:
    try:
        return inspect.cleandoc(inspect.getsource(thing))
    except (OSError, TypeError):
        return ""


def _code(code: types.CodeType) -> str:
    """Byte code and constants; what differs between two compilations of one source, such as addresses, is left out."""
    constants = [_code(c) if isinstance(c, types.CodeType) else repr(c) for c in code.co_consts if not _is_set(c)]
    return hashlib.sha256(repr((code.co_code, code.co_names, constants)).encode()).hexdigest()


def _is_set(constant: Any) -> bool:
    return isinstance(constant, frozenset)  # its order is another in each process


def _globals(code: types.CodeType) -> list[str]:
    """The global names that the code loads, also in the functions inside it."""
    names = {str(i.argval) for i in dis.get_instructions(code) if i.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    inner = (c for c in code.co_consts if isinstance(c, types.CodeType))
    return sorted(names.union(*(_globals(c) for c in inner)))
