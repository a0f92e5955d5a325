"""The SHA-256 of a function or class that a user hands over: by it a run knows the code again."""

from __future__ import annotations

import datetime
import decimal
import dis
import enum
import fractions
import functools
import hashlib
import inspect
import pathlib
import re
import types
from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from promptfed.backbones.base import hash_tensors

PLAIN = (str, bytes, int, float, bool, type(None), complex, bytearray, range, np.generic, enum.Enum, re.Pattern)
PLAIN_TOO = (pathlib.PurePath, decimal.Decimal, fractions.Fraction, datetime.date, datetime.time, datetime.timedelta)
"""Values that ``repr`` tells apart, and writes alike in every process."""
DEEPEST = 6
"""Functions that call functions that call functions: so far the code is followed."""


def code_sha256(thing: Any) -> str:
    """Return the hex SHA-256 of the code of a function, class or callable object.

    It covers the source (or the byte code, where there is no source), defaults, what a closure, a partial or an object
    holds, and the plain values, collections, arrays, models, and the functions, classes and objects of the same module
    that the code names. What the code reads elsewhere, such as a server or another module, is not seen.
    """
    return hashlib.sha256("\n".join(_lines(thing, DEEPEST, set())).encode("utf-8", "surrogatepass")).hexdigest()


def _lines(thing: Any, depth: int, seen: set[int]) -> Iterator[str]:
    if isinstance(thing, types.MethodType):
        yield from _lines(thing.__func__, depth, seen)
        yield from _value("self", thing.__self__, depth, seen)
    elif isinstance(thing, types.FunctionType):
        if id(thing) in seen:
            return
        seen.add(id(thing))
        source = _source(thing)
        if not source or thing.__name__ == "<lambda>":  # a line may have several of these
            yield _code(thing.__code__)
        yield source
        yield from _value("defaults", (thing.__defaults__, thing.__kwdefaults__), depth, seen, home=thing.__module__)
        for name, cell in zip(thing.__code__.co_freevars, thing.__closure__ or (), strict=True):
            try:
                yield from _value(name, cell.cell_contents, depth, seen, home=thing.__module__)
            except ValueError:  # not set yet
                yield f"{name} is empty"
        yield from _named(thing, depth, seen)
    elif isinstance(thing, type):
        if id(thing) in seen:
            return
        seen.add(id(thing))
        functions = {name: member for name, member in sorted(vars(thing).items()) if _is_function(member)}
        yield _source(thing) or "|".join(f"{name}:{_code(f.__code__)}" for name, f in functions.items())
        for function in functions.values():
            yield from _named(function, depth, seen)
        for base in thing.__bases__:
            yield from _value("base", base, depth, seen, module=thing.__module__)
    else:
        yield from _value("object", thing, depth, seen)


def _named(function: types.FunctionType, depth: int, seen: set[int]) -> Iterator[str]:
    """Lines about the global values that ``function`` names."""
    for name in _globals(function.__code__):
        if name in function.__globals__:
            yield from _value(name, function.__globals__[name], depth, seen, module=function.__module__)


def _is_function(member: Any) -> bool:
    return isinstance(member, types.FunctionType)


def _value(
    name: str, value: Any, depth: int, seen: set[int], module: str | None = None, home: str | None = None
) -> Iterator[str]:
    """Lines about a value that code names; of functions and classes only those of its own ``module``, if it is said.

    Objects are looked into if their class is of ``module`` or ``home``.
    """
    if isinstance(value, (*PLAIN, *PLAIN_TOO)):
        yield f"{name}={value!r}"
    elif depth == 0:
        return
    elif isinstance(value, tuple | list | deque):
        for i, part in enumerate(value):
            yield from _value(f"{name}[{i}]", part, depth - 1, seen, module, home)
    elif isinstance(value, set | frozenset):
        parts = ("|".join(_value("", part, depth - 1, set(seen), module, home)) for part in value)
        yield f"{name} holds {sorted(parts)}"
    elif isinstance(value, dict | types.MappingProxyType):
        for key, part in value.items():
            yield from _value(f"{name}[{key!r}]", part, depth - 1, seen, module, home)
    elif isinstance(value, functools.partial):
        call = {"function": value.func, "arguments": value.args, "keywords": value.keywords}
        yield from _value(name, call, depth, seen, module, home)
    elif isinstance(value, torch.Tensor):
        yield f"{name}={hash_tensors([('', value)])}"
    elif isinstance(value, np.ndarray):
        yield f"{name}={value.dtype}{value.shape}{hashlib.sha256(value.tobytes()).hexdigest()}"
    elif isinstance(value, torch.nn.Module):
        yield f"{name}={hash_tensors(value.state_dict().items())}"
    elif isinstance(value, types.BuiltinFunctionType | np.ufunc):
        yield f"{name} is {value.__name__}"
    elif isinstance(value, types.ModuleType):
        yield f"{name} is module {value.__name__}"
    elif isinstance(value, types.FunctionType | types.MethodType | type):
        if module is None or getattr(value, "__module__", None) == module:
            yield from _lines(value, depth - 1, seen)
        else:
            yield f"{name} is {value.__module__}.{value.__qualname__}"
    elif id(value) not in seen:
        seen.add(id(value))
        kind = type(value)
        yield f"{name} is of {kind.__module__}.{kind.__qualname__}"
        if (inner := getattr(value, "__wrapped__", None)) is not None:  # as of functools.cache
            yield from _value(f"{name}.__wrapped__", inner, depth, seen, module, home)
        elif kind.__module__ in (module, home) or name in ("object", "self"):
            yield from _lines(kind, depth - 1, seen)
            for attribute, part in _attributes(value).items():
                yield from _value(f"{name}.{attribute}", part, depth - 1, seen, kind.__module__)


def _attributes(value: Any) -> dict[str, Any]:
    """Return an object's attributes: its ``__dict__`` and its slots."""
    slots = [vars(base).get("__slots__", ()) for base in type(value).__mro__]
    names = [
        name
        for names_of_slot in slots
        for name in ([names_of_slot] if isinstance(names_of_slot, str) else names_of_slot)
    ]
    values = {name: getattr(value, name) for name in names if name != "__dict__" and hasattr(value, name)}
    return {**values, **getattr(value, "__dict__", {})}


def _source(thing: Any) -> str:
    try:
        return inspect.cleandoc(inspect.getsource(thing))
    except (OSError, TypeError):
        return ""


def _code(code: types.CodeType) -> str:
    """Byte code and constants; what differs between two compilations of one source, such as addresses, is left out."""
    return hashlib.sha256(
        repr((code.co_code, code.co_names, list(map(_constant, code.co_consts)))).encode()
    ).hexdigest()


def _constant(value: Any) -> str:
    if isinstance(value, types.CodeType):
        return _code(value)
    return repr(sorted(map(repr, value))) if isinstance(value, frozenset) else repr(value)  # its order is by chance


def _globals(code: types.CodeType) -> list[str]:
    """Return the global names that the code loads, also in the functions inside it."""
    names = {str(i.argval) for i in dis.get_instructions(code) if i.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    inner = (c for c in code.co_consts if isinstance(c, types.CodeType))
    return sorted(names.union(*(_globals(c) for c in inner)))
