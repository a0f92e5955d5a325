"""The privacy options of a run, with the noise that they ask for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from promptfed.config import validate
from promptfed.errors import ConfigError
from promptfed.privacy.accountant import Release, epsilon, noise_multiplier
from promptfed.privacy_options import PrivacyOptions


def resolved_terms(options: Mapping[str, Any], rounds: int, participation: float) -> dict[str, Any]:
    """Return the options ``privacy.*`` with all defaults, and with the noise that ``epsilon`` can afford.

    A noise that is there stays: a run that goes on with more rounds keeps the noise that it began with.

    Args:
        options: The options, in part or in full.
        rounds: Rounds of the run, each of which makes one release.
        participation: Chance with which a client takes part in a round.

    Raises:
        ConfigError: Options are unknown or do not go together.
    """
    terms = validate(PrivacyOptions, options, "privacy option")
    values = terms.model_dump()
    if terms.dp == "client" and terms.noise is None and terms.epsilon is not None:
        values["noise"] = noise_multiplier(terms.epsilon, terms.delta, participation, rounds)
    return values


def most_releases(terms: PrivacyOptions, probability: float, rounds: int) -> int | None:
    """Return how many of ``rounds`` releases the limit ``epsilon`` allows; None without a limit.

    Raises:
        ConfigError: Not even one.
    """
    limit = terms.epsilon
    if limit is None:
        return None
    if not terms.noise:
        raise ConfigError("privacy.noise=0 protects nobody: raise it, or leave privacy.epsilon out")
    noise = terms.noise

    def is_affordable(count: int) -> bool:
        return epsilon([Release(noise, probability, count)], terms.delta) <= limit

    if is_affordable(rounds):
        return rounds
    low, high = 0, rounds
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if is_affordable(middle) else (low, middle)
    if not low:
        raise ConfigError(
            f"privacy.noise={noise:g} spends more than privacy.epsilon={terms.epsilon:g} in the first round: raise one "
            "of them"
        )
    return low
