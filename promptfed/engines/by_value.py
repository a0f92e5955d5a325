"""Pickle the user's own objects by value for the processes of an engine."""

from __future__ import annotations

import sys
import sysconfig
from collections.abc import Iterable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from promptfed.engines.base import Workplace
from promptfed.errors import ConfigError, reason


@dataclass(frozen=True)
class PickledBuilder:
    """A builder of workplaces, pickled in the user's process."""

    data: bytes

    def __call__(self) -> Workplace:
        from ray import cloudpickle

        workplace: Workplace = cloudpickle.loads(self.data)()
        return workplace


def by_value(builder: Any, things: Iterable[Any], engine: str) -> PickledBuilder:
    """Pickle a builder of workplaces together with the code of the user's own modules.

    Args:
        builder: A callable that returns a ``Workplace``.
        things: Objects of the user's program. Another process may not find their modules.
        engine: The name of the engine, for the error.

    Returns:
        A picklable builder that gives the same workplace in any process.

    Raises:
        ConfigError: Something in it cannot be pickled.
    """
    from ray import cloudpickle as library

    cloudpickle: Any = library
    modules = {module for thing in things for module in _modules_of(thing)}
    added = [module for module in modules if module.__name__ not in cloudpickle.list_registry_pickle_by_value()]
    try:
        for module in added:
            cloudpickle.register_pickle_by_value(module)
        return PickledBuilder(cloudpickle.dumps(builder))
    except Exception as error:  # whatever the objects raise
        raise ConfigError(
            f"engine '{engine}' sends the Python objects of the run to its processes, and they cannot be pickled "
            f"({type(error).__name__}: {reason(error)}): use engine='local'"
        ) from error
    finally:
        for module in added:
            cloudpickle.unregister_pickle_by_value(module)


def _modules_of(thing: Any) -> list[ModuleType]:
    """Return the user's own modules that define ``thing``, and none of an installed package."""
    kinds = thing.__mro__ if isinstance(thing, type) else (thing if hasattr(thing, "__code__") else type(thing),)
    modules = [sys.modules.get(getattr(kind, "__module__", "") or "") for kind in kinds]
    return [module for module in modules if module is not None and _is_users(module)]


def _is_users(module: ModuleType) -> bool:
    if module.__name__.partition(".")[0] in ("promptfed", "__main__", *sys.stdlib_module_names):
        return False
    file = getattr(module, "__file__", None) or ""
    return bool(file) and not any(
        file.startswith(sysconfig.get_path(name)) for name in ("purelib", "platlib", "stdlib")
    )
