"""Which engines there are, and which options go with them."""

from __future__ import annotations

from promptfed.config import RunConfig
from promptfed.errors import ConfigError


def check_engine(config: RunConfig) -> None:
    """Raises ConfigError for options that do not go with the engine, and for an engine that is not installed."""
    if config.engine == "local":
        given = {"--actors": config.actors, "--ray-address": config.ray_address}
        useless = ", ".join(flag for flag, value in given.items() if value is not None)
        if useless:
            raise ConfigError(f"{useless} goes with --engine ray, and the engine is 'local': leave it out")
        return
    if config.oracle is not None:
        raise ConfigError(
            f"--engine ray does not go with task '{config.task}': a black box's budget, rate limit and concurrency are "
            "kept by one process. Use --engine local; --set oracle.concurrency=N has requests made side by side"
        )
    from promptfed.engines.ray_runtime import require_ray

    require_ray()
