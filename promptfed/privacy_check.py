"""Whether a run's method, aggregator and clients can keep what its privacy options promise."""

from __future__ import annotations

import math
from collections.abc import Mapping

from promptfed.aggregators.base import Aggregator
from promptfed.engines.registry import ENGINES
from promptfed.errors import ConfigError, SecureSumError
from promptfed.first_update import first_update
from promptfed.method import FeatureMethod, Method
from promptfed.privacy.accountant import check_delta
from promptfed.privacy.adaptive_clip import bit_noise, change_multiplier
from promptfed.privacy.example_account import check_sites
from promptfed.privacy.example_check import check_example_dp
from promptfed.privacy.expectations import expectation
from promptfed.privacy.fixed_point import FixedPoint
from promptfed.privacy.he import require_tenseal
from promptfed.privacy.noise import check_grid
from promptfed.privacy.noise_shares import check_shares, shares_of
from promptfed.privacy.refusals import check_sends_changes, check_sum_is_enough
from promptfed.privacy.simulated_sums import check_enough
from promptfed.privacy.sum_terms import default_threshold
from promptfed.privacy_options import PrivacyOptions


def check_privacy(
    terms: PrivacyOptions, method: Method, aggregator: Aggregator, clients: int, participation: float
) -> None:
    """Check what clients send and what the server needs of it.

    Args:
        terms: What the run promises.
        method: The run's method.
        aggregator: The run's aggregator, which the method may wrap.
        clients: How many there are.
        participation: The share of them that works in a round.

    Raises:
        ConfigError: The promise cannot be kept; the message says why.
    """
    if not terms.protects:
        return
    what = "privacy.secure_aggregation" if terms.dp == "none" else f"privacy.dp={terms.dp}"
    if terms.dp == "client":
        check_delta(terms.delta, clients)
    if terms.dp == "example" and terms.secure_aggregation:
        raise ConfigError("privacy.secure_aggregation with privacy.dp=example is not built: choose one of them")
    if terms.secure_aggregation == "he":
        require_tenseal()
    if terms.secure_aggregation:
        check_enough(clients, participation)
    if terms.secure_aggregation and terms.dp == "client" and participation < 1:
        raise ConfigError(
            "privacy.secure_aggregation with privacy.dp=client needs all clients in every round: otherwise one client "
            "more decides whether there are enough for a sum, and no noise hides that; leave --participation out"
        )
    if terms.needs_sums:
        check_sum_is_enough(what, method, method.server_side(aggregator))
        broadcast, update = first_update(method, aggregator, 0)
        check_sends_changes(what, method, range(clients), broadcast, update)
        _check_rounds(what, terms, method)
        values = sum(tensor.numel() for tensor in update.values())
        if terms.noise_at == "clients":
            _check_shares(terms, values, clients)
        else:
            noise = terms.noise or 0.0
            if terms.clip == "adaptive":
                noise = change_multiplier(noise, bit_noise(participation * clients))
            check_grid("privacy.noise", values, terms.clip_norm, noise, clients)


def _check_rounds(what: str, terms: PrivacyOptions, method: Method) -> None:
    """Raise ConfigError if the noise is for more rounds than ``method`` has."""
    rounds = method.setup.rounds
    if terms.dp == "client" and method.rounds < rounds:
        raise ConfigError(
            f"{what} adds noise for {rounds} rounds, and method '{method.name}' has {method.rounds}: use --rounds "
            f"{method.rounds}"
        )


def _check_shares(terms: PrivacyOptions, values: int, clients: int) -> None:
    """Raise ConfigError if so many ``clients`` cannot add the noise of a sum of so many ``values``."""
    shares, most = shares_of(terms, clients), default_threshold(clients)
    if not clients - most < shares.honest <= most:
        raise ConfigError(
            f"privacy.honest={shares.honest} does not go with {clients} clients, of whom {most} make a sum: "
            f"{clients - most + 1} to {most} do, as fewer honest ones have no masks that the others cannot take off"
        )
    try:
        check_shares(values, FixedPoint(terms.clip_norm, clients, noise=shares.deviation), shares.honest)
    except SecureSumError as error:
        raise ConfigError(f"privacy.noise_at=clients: {error}") from error


def noise_note(
    terms: PrivacyOptions, method: Method, aggregator: Aggregator, clients: int, participation: float
) -> str:
    """Return a note if the noise of a round is longer than the longest signal; else nothing. Arguments as above."""
    if terms.dp != "client" or not terms.noise:
        return ""
    _, update = first_update(method, aggregator, 0)
    size, noise = sum(tensor.numel() for tensor in update.values()), terms.noise
    if terms.noise_at == "clients":  # what is guaranteed is less than what all clients add
        noise = shares_of(terms, clients).deviation * math.sqrt(clients)
    found = expectation(size, noise, clients, participation)
    if found.noise <= 1:
        return ""
    return (
        f"the noise of a round is {found.noise:.2g} times as long as its longest signal ({found.size:,} values, "
        f"{clients} clients): {found.verdict}; promptfed privacy plan --clients {clients} --size {found.size} says "
        "what helps"
    )


def check_ciphertexts(terms: PrivacyOptions, engine: str) -> None:
    """Raise ConfigError if ``engine`` cannot sum ciphertexts, and they are wanted."""
    if terms.secure_aggregation == "he" and engine != "local":
        raise ConfigError(
            f"privacy.secure_aggregation=he is simulated on engine local alone, and this is '{engine}': use "
            "privacy.secure_aggregation=true"
        )


def check_examples(terms: PrivacyOptions, method: Method, sizes: Mapping[int, int], engine: str) -> None:
    """Check that single examples of all clients can be protected.

    Args:
        terms: What the run promises: that.
        method: The run's method.
        sizes: How many training examples each client has.
        engine: Where clients work.

    Raises:
        ConfigError: The promise cannot be kept; the message says why.
    """
    check_example_dp(method)
    if terms.clip_space == "features" and not isinstance(method, FeatureMethod):
        raise ConfigError(
            f"privacy.clip_space=features goes with class names under a learned context, and {method.name} learns "
            "none: leave it out (--set privacy.clip_space=parameters)"
        )
    check_sites(sizes, terms.delta)
    if not ENGINES[engine].protects_examples:
        able = " or ".join(name for name in ENGINES if ENGINES[name].protects_examples)
        raise ConfigError(f"engine '{engine}' does not train with noise for each example: use --engine {able}")
