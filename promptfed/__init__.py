"""promptfed: federated prompt learning. The names below are the public ones; each is loaded when first used.

The repository's folders ``tasks/`` and ``blackbox/`` are installed as ``promptfed.tasks`` and ``promptfed.blackbox``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from promptfed.threads import wait_passively

if TYPE_CHECKING:
    from promptfed.aggregators.base import Aggregator
    from promptfed.api import compare, load, load_run, train
    from promptfed.backbones import load_backbone
    from promptfed.backbones.base import Backbone
    from promptfed.config import RunConfig
    from promptfed.errors import PromptFedError
    from promptfed.experiment import Experiment
    from promptfed.federation import Federation
    from promptfed.method import METHODS, Method
    from promptfed.plugins import load_plugin
    from promptfed.prompt_state import PromptState
    from promptfed.run import Run

    __version__: str

__all__ = [
    "METHODS",
    "Aggregator",
    "Backbone",
    "Experiment",
    "Federation",
    "Method",
    "PromptFedError",
    "PromptState",
    "Run",
    "RunConfig",
    "compare",
    "load",
    "load_backbone",
    "load_plugin",
    "load_run",
    "train",
]

wait_passively()

# Loading torch takes seconds, so `import promptfed` (and with it every `promptfed --help`) must not.
_HOMES = {
    "METHODS": "method",
    "Aggregator": "aggregators.base",
    "Backbone": "backbones.base",
    "Experiment": "experiment",
    "Federation": "federation",
    "Method": "method",
    "PromptFedError": "errors",
    "PromptState": "prompt_state",
    "Run": "run",
    "RunConfig": "config",
    "compare": "api",
    "load": "api",
    "load_backbone": "backbones",
    "load_plugin": "plugins",
    "load_run": "api",
    "train": "api",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("promptfed")
    if name not in _HOMES:
        raise AttributeError(f"module 'promptfed' has no attribute '{name}'")
    return getattr(import_module(f"promptfed.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
