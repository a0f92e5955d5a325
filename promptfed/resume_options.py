"""With what other options a run may go on: a larger budget, another place to work, more rounds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from promptfed.config import Options, RunConfig, build_config
from promptfed.engines.registry import check_engine
from promptfed.errors import ConfigError
from promptfed.method import METHODS
from promptfed.named_model import named_model
from promptfed.option import resumable
from promptfed.oracle_options import OracleOptions


def resumed(config: RunConfig, changes: Options, run: Path, say: Callable[[str], None]) -> RunConfig:
    """Return the options of a run that goes on with ``changes``.

    Args:
        config: The run's own options.
        changes: Other options, those of a black box under "oracle_options".
        run: The run's folder, for messages.
        say: Is told if the result is not that of a run which had such options from the start.

    Raises:
        ConfigError: One of them may not change, or does not fit.
    """
    changes = dict(changes)
    oracle_options = changes.pop("oracle_options", {})
    refused = [name for name in changes if name not in resumable(RunConfig)]
    refused += [name for name in oracle_options if name not in resumable(OracleOptions)]
    if refused:
        allowed = ", ".join((*resumable(RunConfig), *resumable(OracleOptions)))
        raise ConfigError(
            f"a run cannot go on with other values of {', '.join(sorted(refused))}: it may change {allowed}"
        )
    rounds = changes.pop("rounds", None)
    config = _with_place(named_model(config).with_options(oracle_options, run), changes)
    return config if rounds is None else _with_rounds(config, rounds, run, say)


def _with_place(config: RunConfig, changes: Mapping[str, Any]) -> RunConfig:
    """Return ``config`` with another engine, device and so on. Raises ConfigError for what does not fit."""
    if not changes:
        return config
    if changes.get("engine") == "local":
        changes = {"actors": None, "ray_address": None, **changes}
    config = build_config(config.model_dump(), changes)
    check_engine(config)
    return config


def _with_rounds(before: RunConfig, rounds: Any, run: Path, say: Callable[[str], None]) -> RunConfig:
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
