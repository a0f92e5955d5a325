"""Find things by name: one decorator registers, one lookup finds or names the nearest.

A registry is filled from promptfed's own modules, from the entry points of installed packages, and from whatever else
the user imports or names with ``--plugin`` (``promptfed.plugins``).
"""

from __future__ import annotations

import importlib
import logging
import pkgutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar

from promptfed.errors import ConfigError, reason, unknown_name
from promptfed.printable import printable

T = TypeVar("T")
log = logging.getLogger(__name__)
FILE_MODULE = "promptfed_plugin_"
"""How the module of a file begins that was named as a plug-in; its stem and a digest follow."""


_registries: list[Registry[Any]] = []
"""All of this process."""


@contextmanager
def undone_if_it_fails() -> Iterator[None]:
    """Take back what the block registered if it raises, so that it can be tried again, and no half of it stays.

    What belongs to a module that is imported stays, because that module is not run again.
    """
    earlier = {id(registry): set(registry._entries) for registry in _registries}
    try:
        yield
    except BaseException:
        for registry in _registries:  # those too that the block imported
            for name in registry._entries.keys() - earlier.get(id(registry), set()):
                if getattr(registry._entries[name], "__module__", None) not in sys.modules:
                    del registry._entries[name]
        raise


def registrations() -> dict[tuple[str, str], str]:
    """Return (kind, name) of all that is registered by now -> the module that it comes from."""
    return {
        (registry.kind, name): str(getattr(entry, "__module__", ""))
        for registry in _registries
        for name, entry in registry._entries.items()
    }


def failures() -> dict[str, str]:
    """Return the modules and entry points that cannot be imported -> why; all registries that are loaded are read."""
    for registry in tuple(_registries):
        registry._scan()
    return {name: why for registry in _registries for name, why in registry.failures.items()}


class Registry(Generic[T]):
    """Names of one ``kind`` ("method", "aggregator"), filled when one is first asked for.

    Args:
        kind: What is registered, for messages.
        packages: Own packages, every module of which is imported.
        group: Entry-point group by which installed packages add to it; empty: none.
        required: Attributes that everything registered has.
    """

    def __init__(self, kind: str, *packages: str, group: str = "", required: tuple[str, ...] = ()) -> None:
        self.kind, self.packages, self.group, self.required = kind, packages, group, required
        self.failures: dict[str, str] = {}
        """Module or entry point -> why it cannot be imported."""
        self._entries: dict[str, T] = {}
        self._adopted: set[str] = set()
        self._modules: dict[str, str] = {}
        """Name -> the module of the entry point that added it."""
        self._scanned = self._scanning = self._has_packages = False
        _registries.append(self)

    def __repr__(self) -> str:
        names = ", ".join(sorted(self._entries)) if self._scanned else "not read yet"
        return f"<registry of {self.kind}s: {names}>"

    def register(self, name: str) -> Callable[[T], T]:
        """Return a decorator that registers a thing as ``name``.

        It raises ValueError if ``name`` is taken, because a silent second one would hide the first, or if the thing
        lacks an attribute. What promptfed itself has is there before anybody else's.
        """

        def add(thing: T) -> T:
            if not str(getattr(thing, "__module__", "")).startswith(("promptfed.", *self.packages)):
                self._scan_packages()
            if name in self._entries:
                places = " and ".join(map(_home, (self._entries[name], thing)))
                raise ValueError(f"{self.kind} '{name}' is registered twice: in {places}; one needs another name")
            if absent := [attribute for attribute in self.required if not hasattr(thing, attribute)]:
                raise ValueError(f"{self.kind} '{name}' lacks {', '.join(absent)}")
            self._entries[name] = thing
            return thing

        return add

    def adopt(self, thing: T) -> str:
        """Return the name of ``thing``, a class or object that the user hands over.

        That is the one it is registered under, else that of its class, under which it is registered for this process.
        A class that is defined anew, as a notebook does, takes the place of the earlier one.

        Raises:
            ConfigError: Another class has that name, or it lacks an attribute.
        """
        self._scan()
        for name, entry in self._entries.items():
            if entry is thing:
                return name
        name = str(getattr(thing, "__name__", type(thing).__name__))
        present = self._entries.get(name)
        if present is not None and not (name in self._adopted and _place(present) == _place(thing)):
            raise ConfigError(
                f"{self.kind} '{name}' is another class already ({'.'.join(_place(present))}): give yours another name"
            )
        if absent := [attribute for attribute in self.required if not hasattr(thing, attribute)]:
            raise ConfigError(f"{self.kind} class '{name}' lacks {', '.join(absent)}")
        self._entries[name] = thing
        self._adopted.add(name)
        return name

    def is_adopted(self, name: str) -> bool:
        """Whether ``name`` is that of a class that the user handed over."""
        return name in self._adopted

    def origin(self, name: str) -> str:
        """Return the top-level package, module or file that ``name`` comes from."""
        module = str(getattr(self[name], "__module__", "")).partition(".")[0]
        if not module.startswith(FILE_MODULE):
            return module
        return module.removeprefix(FILE_MODULE).rpartition("_")[0] + ".py"

    def entry_module(self, name: str) -> str:
        """Return the module whose entry point added ``name``; empty if it came another way, or is unknown."""
        self._scan()
        return self._modules.get(name, "")

    def _scan(self) -> None:
        if self._scanned or self._scanning:
            return
        self._scan_packages()
        self._scanning = True
        try:
            if self.group:
                for point in entry_points(group=self.group):
                    self._guarded(f"entry point {point.name} = {point.value}", lambda point=point: self._add(point))  # type: ignore[misc]
        finally:
            self._scanning = False
        self._scanned = True

    def _scan_packages(self) -> None:
        """Import promptfed's own modules, once."""
        if self._has_packages or self._scanning:
            return
        self._scanning = True
        try:
            for package in self.packages:
                for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
                    name = f"{package}.{module.name}"
                    self._guarded(name, lambda name=name: importlib.import_module(name))  # type: ignore[misc]
        finally:
            self._scanning = False
        self._has_packages = True

    def _add(self, point: EntryPoint) -> None:
        entry = point.load()
        if entry not in self._entries.values():  # loading it may have registered it already
            self.register(point.name)(entry)
        self._modules[point.name] = point.module

    def _guarded(self, name: str, load: Callable[[], object]) -> None:
        """Call ``load``; if it fails, name it and leave the rest alive."""
        try:
            with undone_if_it_fails():
                load()
        except (Exception, SystemExit) as error:  # whatever a stranger's module raises
            self.failures[name] = f"{type(error).__name__}: {reason(error)}"
            log.warning("%s cannot be imported, so its %ss are missing: %s", name, self.kind, self.failures[name])

    def __iter__(self) -> Iterator[str]:
        self._scan()
        return iter(sorted(self._entries))

    def __contains__(self, name: object) -> bool:
        self._scan()
        return name in self._entries

    def __getitem__(self, name: str) -> T:
        """Return what is registered. Raises ConfigError, naming the nearest name, if ``name`` is not."""
        self._scan()
        if name not in self._entries:
            raise unknown_name(self.kind, name, self._entries)
        return self._entries[name]


def _home(thing: object) -> str:
    """Return the file of a plug-in, or the module, that ``thing`` comes from."""
    module = str(getattr(thing, "__module__", ""))
    return printable(getattr(sys.modules.get(module), "__file__", "")) if module.startswith(FILE_MODULE) else module


def _place(thing: object) -> tuple[str, str]:
    """Where a class is defined."""
    kind = thing if hasattr(thing, "__qualname__") else type(thing)
    return str(kind.__module__), str(kind.__qualname__)
