"""The registry of engines."""

from __future__ import annotations

from promptfed.config import RunConfig
from promptfed.engines.base import Engine
from promptfed.errors import ConfigError
from promptfed.registry import Registry

ENGINES: Registry[type[Engine]] = Registry(
    "engine", "promptfed.engines", group="promptfed.engines", required=("check", "for_stage", "for_run", "run_round")
)
WAYS = ("for_stage", "for_run")
"""How an engine is made; each class has one of them."""


def check_engine(config: RunConfig) -> None:
    """Check that the engine of ``config`` can run it.

    Raises:
        ConfigError: The engine is unknown or not installed, or an option does not go with it.
    """
    kind = ENGINES[config.engine]
    parents = (kind if isinstance(kind, type) else type(kind)).__mro__  # one that a user hands over may be an instance
    if not any(way in vars(parent) for parent in parents if parent is not Engine for way in WAYS):
        raise ConfigError(f"engine '{config.engine}' cannot be made: its class needs for_stage or for_run")
    kind.check(config)
