"""Other people's code that the user chose: ``--plugin``, ``load_plugin``, PROMPTFED_PLUGINS, or an installed package.

Code runs only if the local user chose it. A plug-in's name in a config, a run, a bundle or a message is compared with
those that are loaded, and never imported.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import logging
import os
import sys
from collections.abc import Iterable, Mapping
from functools import lru_cache
from importlib.machinery import PathFinder
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from promptfed.errors import ConfigError, reason
from promptfed.files.paths import checked_path
from promptfed.printable import LONGEST, printable
from promptfed.registry import FILE_MODULE, registrations, undone_if_it_fails

log = logging.getLogger(__name__)
GROUPS = "promptfed."
"""How the entry-point groups begin by which installed packages add to promptfed."""
LIST = "PROMPTFED_PLUGINS"
"""Environment variable: a text file with one plug-in a line, all of which the command line loads."""
_loaded: dict[str, str] = {}
_files: dict[str, str] = {}
"""Plug-in -> its main file."""


def loaded_plugins() -> dict[str, str]:
    """Return the plug-ins of this process: name as it was given (files: absolute) -> SHA-256 of its main file."""
    return dict(_loaded)


def installed_plugins() -> dict[str, str]:
    """Return the modules that installed packages add by entry points -> SHA-256 of their files. None is imported."""
    folders = tuple((folder, _modified(folder or ".")) for folder in sys.path)
    files = {module: module_file(module) for module in _entry_modules(folders)}
    return {module: _sha256(file) for module, file in files.items()}


@lru_cache(maxsize=1)
def _entry_modules(folders: tuple[tuple[str, int], ...]) -> tuple[str, ...]:
    """List the modules of promptfed's entry points, sorted; anew once a package is installed in ``folders``."""
    points = entry_points()
    groups = [group for group in points.groups if group.startswith(GROUPS)]
    return tuple(sorted({_module(point) for group in groups for point in points.select(group=group)} - {""}))


def _module(point: EntryPoint) -> str:
    """Return the module of an entry point; empty if a damaged package names none."""
    try:
        return point.module
    except (AttributeError, ValueError):  # what readers of metadata say of ``name = ???``, each its own
        return ""


def _modified(folder: str) -> int:
    try:
        return os.stat(folder).st_mtime_ns
    except (OSError, ValueError, TypeError):  # programs put anything at all into sys.path
        return 0


def present_plugins() -> dict[str, str]:
    """Return what this process may use: the loaded plug-ins and the installed ones, each with its SHA-256."""
    return {**installed_plugins(), **_loaded}


def module_file(name: str) -> str:
    """Return the file that Python would import for the module ``name``, and import none; empty if there is none."""
    path, spec, parts = None, None, name.split(".")
    for depth in range(len(parts)):
        try:
            spec = PathFinder.find_spec(".".join(parts[: depth + 1]), path)
        except (ImportError, ValueError):
            return ""
        if spec is None:
            return ""
        path = spec.submodule_search_locations
        path = None if path is None else list(path)
    return "" if spec is None else str(spec.origin or "")


def plugin_file(name: str) -> str:
    """Return the main file of the plug-in ``name``; empty if it has none."""
    return _files.get(name) or ("" if is_file_name(name) else module_file(name))


def is_file_name(name: str) -> bool:
    """Return whether a plug-in called ``name`` is a file, and no module."""
    return name.endswith(".py") or os.sep in name


def load_plugin(name: str | os.PathLike[str]) -> None:
    """Import a module, or run a ``.py`` file, that registers methods, aggregators, tasks, data sources or models.

    Args:
        name: ``package.module``, or the path of a file. Twice is once.

    A warning says that one registers nothing: it may be the wrong module.

    Raises:
        ConfigError: There is no such module or file, or it fails.
    """
    if not isinstance(name, str | os.PathLike):
        raise ConfigError(f"plug-in is {printable(repr(name), LONGEST)}: give a module, or a .py file")
    text = os.fspath(name)
    is_file = is_file_name(text)
    path = checked_path(text, "plug-in").expanduser() if is_file else Path(text)
    key = str(path.resolve()) if is_file else text
    if key in _loaded:
        return
    earlier = registrations()
    if is_file and not path.is_file():
        raise ConfigError(
            f"plug-in '{printable(text)}' is no file; give a .py file, or a module such as my_package.methods"
        )
    try:
        with undone_if_it_fails():
            file = _run_file(path.resolve()) if is_file else importlib.import_module(text).__file__
    except ModuleNotFoundError as error:
        if not is_file and error.name and text.split(".")[0] == error.name.split(".")[0]:
            raise ConfigError(
                f"plug-in '{printable(text)}' is no module that Python finds: install its package, or give a .py file"
            ) from error
        raise ConfigError(f"plug-in '{printable(text)}' cannot be loaded: {reason(error)}") from error
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # whatever a stranger's module raises, SystemExit too
        raise ConfigError(
            f"plug-in '{printable(text)}' cannot be loaded: {type(error).__name__}: {reason(error)}"
        ) from error
    _files[key] = file or ""
    _loaded[key] = _sha256(file) if file else ""
    if not _adds(text, earlier):
        log.warning("plug-in '%s' adds nothing to promptfed: it registers no method, data or model", printable(text))


def _adds(name: str, before: Mapping[tuple[str, str], str]) -> bool:
    """Return whether something is registered that was not ``before``, or that the package of ``name`` had brought."""
    package = name.split(".")[0]
    return any(
        module.split(".")[0] == package or (key not in before and not module.startswith(GROUPS))
        for key, module in registrations().items()
    )


def load_plugins(names: Iterable[str | os.PathLike[str]]) -> None:
    """Load each of ``names``, in order. Raises ConfigError for the first that fails."""
    for name in names:
        load_plugin(name)


def load_listed_plugins() -> None:
    """Load the plug-ins that the user's own list names, if there is one. Raises ConfigError."""
    if not (path := os.environ.get(LIST)):
        return
    try:
        lines = Path(path).expanduser().read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read {LIST}, '{printable(path)}': {reason(error)}") from error
    load_plugins(line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#"))


def check_plugins(named: Mapping[str, str], what: str) -> list[str]:
    """Compare the plug-ins that ``what`` was made with, as it names them, with those that are loaded.

    Returns:
        A line for each that is loaded with other code than then.

    Raises:
        ConfigError: One is not loaded. It is not imported here, because ``what`` may be a stranger's.
    """
    present = present_plugins()
    absent = [name for name in named if name not in present]
    if absent:
        options = " ".join(f"--plugin {printable(name)}" for name in absent)
        package = "" if all(map(is_file_name, absent)) else ", or install the package that has it"
        raise ConfigError(
            f"{what} was made with code of a plug-in, which runs only if you say so: add {options}{package}"
        )
    return [
        f"plug-in {printable(name)} is not the code that {what} was made with"
        for name, digest in named.items()
        if digest != present[name]
    ]


def short_names(plugins: Mapping[str, str]) -> dict[str, str]:
    """Return ``plugins`` (name -> SHA-256) with files by their own name, without the folders of this machine."""
    return {_short(name): digest for name, digest in plugins.items()}


def check_site_plugins(named: Mapping[str, str]) -> list[str]:
    """Compare the plug-ins that a server names with those that this site has loaded of its own accord.

    Returns:
        A line for each that has the same name here, and other code.

    Raises:
        ConfigError: One is not loaded here. It is not imported, because the server is somebody else.
    """
    present = present_plugins()
    codes, names = set(present.values()), {_short(name) for name in present}
    unknown = [name for name, digest in named.items() if not digest or digest not in codes]
    if absent := [name for name in unknown if _short(name) not in names]:
        raise ConfigError(
            f"the run needs the plug-in {', '.join(map(printable, absent))}, which this site has not loaded: get its "
            'code, look at it, and add plugins="PATH or module" to this node\'s --node-config'
        )
    return [f"plug-in {printable(name)} is not the code that the server has" for name in unknown]


def _sha256(file: str) -> str:
    """Return the hex SHA-256 of a file; empty if it cannot be read."""
    try:
        return hashlib.sha256(Path(file).read_bytes()).hexdigest()
    except OSError:
        return ""


def _short(name: str) -> str:
    return name.replace("\\", "/").rpartition("/")[2] if is_file_name(name) else name


def _run_file(path: Path) -> str:
    """Import ``path`` under a name of its own, which pickled objects of its classes can be found by."""
    name = f"{FILE_MODULE}{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"plug-in '{printable(path)}' is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return str(path)
