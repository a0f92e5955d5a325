"""Other people's code that the user named: ``--plugin``, ``promptfed.load_plugin`` or the file PROMPTFED_PLUGINS.

Code runs only if the local user chose it. A plug-in's name in a config, a run, a bundle or a message is compared with
those that are loaded, and never imported.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from promptfed.errors import ConfigError, reason
from promptfed.printable import printable
from promptfed.registry import FILE_MODULE, undone_if_it_fails

LIST = "PROMPTFED_PLUGINS"
"""Environment variable: a text file with one plug-in a line, all of which the command line loads."""
_loaded: dict[str, str] = {}
_files: dict[str, str] = {}
"""Plug-in -> its main file."""


def loaded_plugins() -> dict[str, str]:
    """Return the plug-ins of this process: name as it was given (files: absolute) -> SHA-256 of its main file."""
    return dict(_loaded)


def plugin_file(name: str) -> str:
    """Return the main file of the loaded plug-in ``name``; empty if it has none."""
    return _files.get(name, "")


def is_file_name(name: str) -> bool:
    """Return whether a plug-in called ``name`` is a file, and no module."""
    return name.endswith(".py") or os.sep in name


def load_plugin(name: str | os.PathLike[str]) -> None:
    """Import a module, or run a ``.py`` file, that registers methods, aggregators, tasks, data sources or models.

    Args:
        name: ``package.module``, or the path of a file. Twice is once.

    Raises:
        ConfigError: There is no such module or file, or it fails.
    """
    text = os.fspath(name)
    path = Path(text).expanduser()
    is_file = is_file_name(text)
    key = str(path.resolve()) if is_file else text
    if key in _loaded:
        return
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
    _loaded[key] = hashlib.sha256(Path(file).read_bytes()).hexdigest() if file else ""


def load_plugins(names: Iterable[str | os.PathLike[str]]) -> None:
    """Load each of ``names``, in order. Raises ConfigError for the first that fails."""
    for name in names:
        load_plugin(name)


def load_listed_plugins() -> None:
    """Load the plug-ins that the user's own list names, if there is one. Raises ConfigError."""
    if not (place := os.environ.get(LIST)):
        return
    try:
        lines = Path(place).expanduser().read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read {LIST}, '{printable(place)}': {reason(error)}") from error
    load_plugins(line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#"))


def check_plugins(named: Mapping[str, str], what: str) -> list[str]:
    """Compare the plug-ins that ``what`` was made with, as it names them, with those that are loaded.

    Returns:
        A line for each that is loaded with other code than then.

    Raises:
        ConfigError: One is not loaded. It is not imported here, because ``what`` may be a stranger's.
    """
    missing = [name for name in named if name not in _loaded]
    if missing:
        options = " ".join(f"--plugin {printable(name)}" for name in missing)
        raise ConfigError(f"{what} was made with code of a plug-in, which runs only if you say so: add {options}")
    return [
        f"plug-in {printable(name)} is not the code that {what} was made with"
        for name, digest in named.items()
        if digest != _loaded[name]
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
    codes, names = set(_loaded.values()), {_short(name) for name in _loaded}
    others = [name for name, digest in named.items() if not digest or digest not in codes]
    if missing := [name for name in others if _short(name) not in names]:
        raise ConfigError(
            f"the run needs the plug-in {', '.join(map(printable, missing))}, which this site has not loaded: get its "
            'code, look at it, and add plugins="PATH or module" to this node\'s --node-config'
        )
    return [f"plug-in {printable(name)} is not the code that the server has" for name in others]


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
