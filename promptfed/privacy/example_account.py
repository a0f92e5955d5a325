"""What each site of a run spends on its examples: sites hold different examples, so each has an epsilon of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from promptfed.errors import ConfigError
from promptfed.local_training import LocalSteps
from promptfed.privacy.accountant import check_delta, epsilon, noise_multiplier
from promptfed.privacy.dpsgd import Batches

PRECISION = 1e-3
"""How far beyond its limit an epsilon may be by the precision to which its noise was chosen."""


@dataclass(frozen=True)
class ExampleAccount:
    """The steps of all sites, and what they cost.

    Attributes:
        batches: How each client's examples come into its steps.
        multiplier: The noise, z; 0: none, and every epsilon is infinite.
        delta: The chance with which a promise may fail.
    """

    batches: Mapping[int, Batches]
    multiplier: float
    delta: float

    def epsilons(self, rounds: Mapping[int, int]) -> dict[int, float]:
        """Return each client's epsilon after it took part in so many ``rounds``: one example added or removed."""
        return {client: self._epsilon(client, count) for client, count in rounds.items()}

    def largest(self, rounds: Mapping[int, int]) -> float:
        """Return the largest of all clients' epsilons, which holds for whoever holds one example at one site."""
        return max(self.epsilons(rounds).values(), default=0.0)

    def is_affordable(self, rounds: Mapping[int, int], limit: float) -> bool:
        """Return whether no client spends more than ``limit``."""
        return self.largest(rounds) <= limit * (1 + PRECISION)

    def _epsilon(self, client: int, rounds: int) -> float:
        releases = self.batches[client].steps * rounds
        if not releases:
            return 0.0
        if not self.multiplier:
            return float("inf")
        return epsilon(self.batches[client].releases(self.multiplier, rounds), self.delta)


def batches_of(config: LocalSteps, sizes: Mapping[int, int], classes: int) -> dict[int, Batches]:
    """Return the batches of clients that hold so many training examples; a step encodes texts of ``classes``."""
    return {client: Batches.of(config, size, classes) for client, size in sizes.items()}


def least_noise(batches: Mapping[int, Batches], rounds: Mapping[int, int], limit: float, delta: float) -> float:
    """Return the least noise multiplier with which no client spends more than ``limit`` in its ``rounds``."""
    kinds = {
        (batches[client].probability, batches[client].steps * count)
        for client, count in rounds.items()
        if batches[client].steps * count
    }
    return max((noise_multiplier(limit, delta, *kind) for kind in kinds), default=0.0)


def check_sites(sizes: Mapping[int, int], delta: float) -> None:
    """Raise ConfigError if ``delta`` is too large for the clients that hold most examples."""
    largest = max(sizes.values(), default=0)
    if largest:
        try:
            check_delta(delta, largest)
        except ConfigError as error:
            raise ConfigError(str(error).replace("clients", "examples")) from None
