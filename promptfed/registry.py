"""Find things by name: one decorator registers, one lookup finds or names the nearest."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from promptfed.errors import unknown_name

T = TypeVar("T")


class Registry(Generic[T]):
    """Names of one ``kind`` ("method", "aggregator"), filled when the modules of ``packages`` are first imported."""

    def __init__(self, kind: str, *packages: str) -> None:
        self.kind, self.packages = kind, packages
        self._found: dict[str, T] = {}
        self._scanned = False

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator. Raises ValueError if ``name`` is taken: a silent second one would hide the first."""

        def add(thing: T) -> T:
            if name in self._found:
                raise ValueError(f"{self.kind} '{name}' is registered twice")
            self._found[name] = thing
            return thing

        return add

    def _scan(self) -> None:
        if not self._scanned:
            self._scanned = True
            for package in self.packages:
                for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
                    importlib.import_module(f"{package}.{module.name}")

    def __iter__(self) -> Iterator[str]:
        self._scan()
        return iter(sorted(self._found))

    def __getitem__(self, name: str) -> T:
        """Raises ConfigError, naming the nearest known name, if ``name`` is not registered."""
        self._scan()
        if name not in self._found:
            raise unknown_name(self.kind, name, self._found)
        return self._found[name]
