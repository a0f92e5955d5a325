"""YAML of config files and ``--set`` values: mappings, lists and plain values, as JSON has them.

Refused are: what is too long, too deep or, its aliases written out, of too many values; a mapping with one key twice;
tags that make other things than plain values; numbers that are not finite or beyond 64 bits; strings with NUL. Dates
are text, since no option is a date.
"""

from __future__ import annotations

import math
import re
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from yaml.composer import Composer, ComposerError
from yaml.constructor import ConstructorError, SafeConstructor
from yaml.events import AliasEvent
from yaml.resolver import Resolver

from promptfed.errors import FormatError
from promptfed.printable import printable
from promptfed.readers.files import MEGABYTE
from promptfed.readers.json_reader import check_integer, check_string
from promptfed.readers.text import read_text

TAG = "tag:yaml.org,2002:"
PLAIN = frozenset(TAG + kind for kind in ("null", "bool", "int", "float", "str", "seq", "map"))
LONGEST_NUMBER = 80
"""Characters of a number that is read."""


@dataclass(frozen=True)
class YamlLimits:
    """How much is read: ``size`` in bytes, ``depth`` of nesting, ``values`` with aliases written out."""

    size: int = MEGABYTE
    depth: int = 32
    values: int = 100_000


LIMITS = YamlLimits()


def parse_yaml(text: str, limits: YamlLimits = LIMITS) -> Any:
    """Return what the YAML text says: None, bool, int, float, str, list or dict.

    Raises:
        FormatError: it is not YAML, or more than ``limits``; one line that names the place where there is one.
    """
    if len(text) > limits.size:
        raise FormatError(f"it has {len(text):,} characters; at most {limits.size:,} are read here")
    check_string(text)
    loader = _Loader(text, limits)
    try:
        return loader.get_single_data()
    except yaml.YAMLError as error:
        raise FormatError(_line(error)) from error
    except RecursionError as error:
        raise FormatError("it is nested too deep") from error
    except (ValueError, OverflowError, UnicodeError) as error:
        if isinstance(error, FormatError):
            raise
        raise FormatError(" ".join(str(error).split())) from error
    finally:
        loader.dispose()


def read_yaml_file(path: Path, limits: YamlLimits = LIMITS) -> Any:
    """Return what the YAML file says.

    Raises:
        FormatError: it is no text or no YAML, or more than ``limits``.
        OSError: the operating system cannot read it.
    """
    return parse_yaml(read_text(path, limits.size), limits)


_Parser: Any = getattr(getattr(yaml, "cyaml", None), "CParser", None)
"""Of libyaml, where PyYAML was built with it: ten times as fast as PyYAML's own."""
if _Parser is None:

    class _PythonParser(yaml.reader.Reader, yaml.scanner.Scanner, yaml.parser.Parser):
        def __init__(self, text: str) -> None:
            yaml.reader.Reader.__init__(self, text)
            yaml.scanner.Scanner.__init__(self)
            yaml.parser.Parser.__init__(self)

    _Parser = _PythonParser


class _Loader(Composer, _Parser, SafeConstructor, Resolver):
    """SafeLoader that counts while it composes."""

    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [(tag, pattern) for tag, pattern in resolvers if tag != TAG + "timestamp"]
        for first, resolvers in Resolver.yaml_implicit_resolvers.items()
    }

    def __init__(self, text: str, limits: YamlLimits) -> None:
        _Parser.__init__(self, text)
        Composer.__init__(self)
        SafeConstructor.__init__(self)
        Resolver.__init__(self)
        self.limits, self.depth, self.values = limits, 0, 0
        self.extents: dict[int, int] = {}

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(AliasEvent):
            node: Any = super().compose_node(parent, index)
            if id(node) not in self.extents:
                raise ComposerError(None, None, "an anchor holds itself", node.start_mark)
            self._count(self.extents[id(node)])
            return node
        self.depth += 1
        if self.depth > self.limits.depth:
            raise FormatError(f"it is nested deeper than {self.limits.depth} levels")
        previous = self.values
        self._count(1)
        node = super().compose_node(parent, index)
        self.extents[id(node)] = self.values - previous
        self.depth -= 1
        if node.tag not in PLAIN and node.tag != TAG + "merge":
            tag = printable(node.tag.removeprefix(TAG), 40)
            raise ComposerError(None, None, f"the tag '{tag}' is none of plain values", node.start_mark)
        return node

    def _count(self, values: int) -> None:
        self.values += values
        if self.values > self.limits.values:
            raise FormatError(f"it holds more than {self.limits.values:,} values, aliases (*name) written out")

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        keys: set[Hashable] = set()
        for key_node, _ in node.value:
            key = None if key_node.tag == TAG + "merge" else self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                raise ConstructorError(None, None, "a key is a list or a mapping", key_node.start_mark)
            if key is not None and key in keys:
                raise ConstructorError(
                    None, None, f"the key '{printable(key, 40)}' is there twice", key_node.start_mark
                )
            keys.add(key)
        return dict(super().construct_mapping(node, deep=deep))

    def construct_yaml_int(self, node: Any) -> int:
        if len(node.value) > LONGEST_NUMBER:
            raise FormatError(f"an integer is beyond 64 bits ({len(node.value):,} characters)")
        return check_integer(super().construct_yaml_int(node))

    def construct_yaml_float(self, node: Any) -> float:
        if len(node.value) > LONGEST_NUMBER:
            raise FormatError(f"a number has {len(node.value):,} characters; at most {LONGEST_NUMBER} are read")
        value = float(super().construct_yaml_float(node))
        if not math.isfinite(value):
            raise FormatError(f"{node.value} is not a finite number")
        return value

    def construct_yaml_str(self, node: Any) -> str:
        text = str(super().construct_yaml_str(node))
        check_string(text)
        return text


for _kind in ("int", "float", "str"):
    _Loader.add_constructor(TAG + _kind, getattr(_Loader, f"construct_yaml_{_kind}"))


def _line(error: yaml.YAMLError) -> str:
    """Return the message of ``error`` on one line."""
    problem, mark = getattr(error, "problem", None), getattr(error, "problem_mark", None)
    if problem and mark is not None:
        context = getattr(error, "context", None)
        position = f"line {mark.line + 1}, column {mark.column + 1}"
        return printable(f"{context + ': ' if context else ''}{problem} at {position}", 300)
    return printable(re.sub(r"\s+", " ", str(error)), 300)
