"""The options by which runs and tables that are on disk are told from others."""

from __future__ import annotations

from typing import Any

from promptfed.config import RunConfig
from promptfed.option import options_of
from promptfed.oracle_options import OracleOptions


def what_counts(config: RunConfig) -> dict[str, Any]:
    """Return the options that determine the results: not where the work runs, and not the budget of an oracle."""
    models = (RunConfig, OracleOptions)
    free, free_of_oracle = ({n for n, option in options_of(m).items() if not option.counts} for m in models)
    options = config.model_dump(mode="json", exclude=free)
    oracle_options = options["oracle_options"]
    options["oracle_options"] = {name: value for name, value in oracle_options.items() if name not in free_of_oracle}
    return options
