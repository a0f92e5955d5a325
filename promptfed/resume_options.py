"""With what other options a run may go on: a larger budget, another place to work, more rounds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from promptfed.blackbox.oracle_factory import check_oracle_options
from promptfed.blackbox.oracles.config import OracleOptions
from promptfed.config import RunConfig, build_config, validate
from promptfed.engines.registry import check_engine
from promptfed.errors import ConfigError
from promptfed.method import METHODS


def with_budget(config: RunConfig, raised: Mapping[str, Any], run: Path) -> RunConfig:
    """Return ``config`` with the oracle options in ``raised``. Raises ConfigError for what does not fit."""
    if not raised:
        return config
    if config.oracle is None:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in raised)
        raise ConfigError(f"run '{run}' asks no black box, so there is no budget: leave out {flags}")
    oracle_options = validate(OracleOptions, {**config.oracle_options, **raised}, "oracle option")
    check_oracle_options(config.oracle, oracle_options)
    return config.model_copy(update={"oracle_options": oracle_options.model_dump()})


def with_place(config: RunConfig, place: Mapping[str, Any]) -> RunConfig:
    """Return ``config`` with the engine, actors and so on in ``place``. Raises ConfigError for what does not fit."""
    if not place:
        return config
    if place.get("engine") == "local":
        place = {"actors": None, "ray_address": None, **place}
    config = build_config(config.model_dump(), place)
    check_engine(config)
    return config


def with_rounds(before: RunConfig, rounds: Any, run: Path, say: Callable[[str], None]) -> RunConfig:
    """Return ``before`` with a larger number of rounds. Raises ConfigError for one that does not fit.

    ``say`` is told if the result is not that of a run which had so many rounds from the start.
    """
    config = build_config(before.model_dump(), {"rounds": rounds})
    if config.rounds <= before.rounds:
        raise ConfigError(f"--rounds {rounds}: run '{run}' has {before.rounds} rounds already; give a larger number")
    method = METHODS[config.method]
    if method.last_round_differs:
        raise ConfigError(
            f"--rounds {rounds}: the last round of {method.name} does other work than those before, so a run cannot be "
            f"made longer; train anew with --rounds {rounds}"
        )
    if method.paced or config.method_options.get("schedule") == "cosine":
        say(
            f"note: the rates of {method.name} follow a schedule over all rounds: the first {before.rounds} were "
            f"trained for {before.rounds}, so the result is not that of a run of {config.rounds} from the start"
        )
    return config
