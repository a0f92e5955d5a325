"""What a private run would cost: how much noise an epsilon takes, and what is left of the prompt under it.

The mean of the clipped changes is divided by the expected number of participants, ``q N``, so its noise has a norm of
about ``z sqrt(d) / (q N)`` times the clip norm, for ``d`` values. The signal of a round is the clip norm at most.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from promptfed.errors import ConfigError
from promptfed.privacy.accountant import Release, check_delta, default_delta, epsilon, epsilon_rdp, noise_multiplier

USUAL_SIZES = (100, 500, 2_048, 8_192)
"""Values of an update: a small search space, BBT's, 4 context vectors of width 512, and 16 of them."""
FEW_SITES = 30
"""Up to so many clients, each is likely to be a site with many people's examples."""
VERDICTS = (
    (0.3, "little noise: near to a run without"),
    (1.0, "some noise: below the signal"),
    (5.0, "mostly noise: at best survivable over many rounds"),
    (math.inf, "nothing but noise: do not train"),
)
"""Up to this noise norm over the clip norm -> what to expect, in words."""


@dataclass(frozen=True)
class Expectation:
    """What the noise does to an update of ``size`` values.

    ``noise``: norm of the noise of the mean over the clip norm. ``clients_needed``: clients with which it would be 1,
    the rest as it is.
    """

    size: int
    noise: float
    clients_needed: int

    @property
    def verdict(self) -> str:
        """What to expect, in words."""
        return next(words for limit, words in VERDICTS if self.noise <= limit)


@dataclass(frozen=True)
class Plan:
    """A private run before it begins. Unit: a client, added or removed; the server is trusted.

    ``unsampled``: epsilon of the same noise if somebody knows who takes part in which round. ``rdp``: the cross-check.
    ``largest_size``: values for which the noise is as large as the signal of a round.
    """

    clients: int
    rounds: int
    participation: float
    delta: float
    multiplier: float
    epsilon: float
    rdp: float
    unsampled: float
    largest_size: int
    expectations: tuple[Expectation, ...]

    @property
    def claims_amplification(self) -> bool:
        """Whether epsilon counts on nobody's knowing who takes part."""
        return self.participation < 1

    def recorded(self) -> dict[str, Any]:
        """As JSON has it."""
        record = asdict(self) | {"claims_amplification": self.claims_amplification, "adjacency": "add-remove"}
        record |= {"unit": "client", "trusts": "server", "accountant": "pld"}
        rows = [asdict(each) | {"verdict": each.verdict} for each in self.expectations]
        return record | {"expectations": rows}


def plan(
    clients: int,
    rounds: int,
    participation: float,
    *,
    epsilon_limit: float | None = None,
    multiplier: float | None = None,
    delta: float | None = None,
    sizes: Sequence[int] = (),
) -> Plan:
    """Plan a run: the noise that ``epsilon_limit`` takes, or the epsilon that ``multiplier`` spends.

    Args:
        clients: All there are, N.
        rounds: Noised means that are published.
        participation: Probability of each client to take part in a round, q.
        epsilon_limit: Epsilon at the end.
        multiplier: Noise over clip norm, z, in place of ``epsilon_limit``.
        delta: ``default_delta(clients)`` if None.
        sizes: Values of an update to look at beside ``USUAL_SIZES``.

    Raises:
        ConfigError: A value is impossible, or not exactly one of epsilon and noise is given.
    """
    if (epsilon_limit is None) == (multiplier is None):
        raise ConfigError("say either epsilon (how much may be spent) or noise (its multiplier), and not both")
    delta = default_delta(clients) if delta is None else delta
    check_delta(delta, clients)
    if multiplier is None:
        assert epsilon_limit is not None
        multiplier = noise_multiplier(epsilon_limit, delta, participation, rounds)
    releases = (Release(multiplier, participation, rounds),)
    unsampled = epsilon((Release(multiplier, 1.0, rounds),), delta)
    expected = participation * clients
    return Plan(
        clients, rounds, participation, delta, multiplier, epsilon(releases, delta), epsilon_rdp(releases, delta),
        unsampled, math.floor((expected / multiplier) ** 2),
        tuple(expectation(size, multiplier, clients, participation) for size in sorted({*USUAL_SIZES, *sizes})),
    )  # fmt: skip


def expectation(size: int, multiplier: float, clients: int, participation: float) -> Expectation:
    """Return what noise of ``multiplier`` does to the mean of ``size`` values."""
    norm = multiplier * math.sqrt(size) / participation
    return Expectation(size, norm / clients, math.ceil(norm))


def levers(plan: Plan) -> tuple[str, ...]:
    """Return what would help this plan, best first."""
    largest = plan.expectations[-1]
    words = ["more clients: twice as many halve the noise"]
    if largest.noise > 1:
        words[0] += f"; {largest.clients_needed:,} bring it down to the signal for {largest.size:,} values"
    if plan.clients <= FEW_SITES:
        words.append(
            "privacy of an example in place of a client: each site adds noise while it trains, and trusts no server"
        )
    if plan.claims_amplification:
        everybody = noise_multiplier(plan.epsilon, plan.delta, 1.0, plan.rounds)
        noise = expectation(largest.size, everybody, plan.clients, 1.0).noise
        if noise < largest.noise:
            words.append(
                f"everybody in every round: noise multiplier {everybody:g} for the same epsilon, and {noise:.2g} in "
                f"place of {largest.noise:.2g} on {largest.size:,} values; nothing hangs on a secret then"
            )
    return (
        *words,
        f"fewer values: up to {plan.largest_size:,} have no more noise than signal here (a context of 4 vectors, "
        "low-rank changes, the search space of a black-box method)",
        "fewer rounds with more local work in each: a quarter of the rounds at most halves the noise",
        "personal tuning at home after the run, which costs no privacy: promptfed personalize",
    )
