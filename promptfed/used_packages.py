"""The installed packages that a run uses: those whose entry points added a name that its config has."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from promptfed.aggregators.base import AGGREGATORS
from promptfed.backbones import MODELS
from promptfed.config import RunConfig
from promptfed.engines.registry import ENGINES
from promptfed.measures.base import MEASURES
from promptfed.method import METHODS
from promptfed.plugins import installed_plugins
from promptfed.processors.base import PROCESSORS
from promptfed.registry import Registry
from promptfed.tasks import TASKS
from promptfed.tasks.sources import SOURCES


def used_packages(config: RunConfig) -> dict[str, str]:
    """Return the modules that entry points added and ``config``, resolved, names -> SHA-256 of their files.

    Other packages may be installed that the run has no use for; they are left out, and nobody needs them to repeat it.
    """
    modules = {registry.entry_module(name) for registry, name in _names(config)} - {""}
    present = installed_plugins() if modules else {}
    return {module: present[module] for module in sorted(modules) if module in present}


def _names(config: RunConfig) -> Iterator[tuple[Registry[Any], str]]:
    """Yield the names in ``config`` that somebody else may have registered, and where."""
    yield METHODS, config.method
    yield AGGREGATORS, config.aggregator or ""
    yield TASKS, config.task
    yield ENGINES, config.engine
    yield SOURCES, config.data.partition(":")[0]
    clip, _, model = (config.oracle or "").partition(":")
    yield MODELS, (model if clip == "clip" else config.backbone).partition(":")[0]
    for processor in config.processors:
        yield from ((PROCESSORS, name) for name in processor)
    yield from ((MEASURES, name.partition(":")[0]) for name in (*config.measures, config.selection))
