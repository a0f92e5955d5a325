"""Secure sums of simulated clients: the legs and messages of real sites, in one process."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from promptfed.errors import ConfigError, SecureSumError
from promptfed.privacy.fixed_point import FixedPoint
from promptfed.privacy.noise_shares import NO_SHARES, NoiseShares, simulated_keys
from promptfed.privacy.release import SecretSums, Total, Traffic
from promptfed.privacy.secret_key import SecretKey
from promptfed.privacy.secure_round import SecureRound, secure_sum_of
from promptfed.prompt_state import PromptState
from promptfed.types import NO_PROMPT

FEWEST = 3
"""Clients of a sum: of two, each learns the other's change from it."""


class SimulatedSums(SecretSums):
    """Sum the changes of a round by the protocol of ``promptfed.privacy.secure_sum``.

    Rounding moves a change by less than ``bound sqrt(d) / (2^f - 1)``. Changes that are within that of the bound are
    shortened before, so that a client moves the sum by the bound at most, which is what noise is made for.

    Whoever simulates holds all updates anyway: what a run gains is the result as sites would get it, drop-outs and
    rounding included.

    Args:
        bound: The largest absolute value of a change; the clip, which bounds the norm, bounds each value.
        shares: The noise that each client adds to its change.
        key: The run's secret, from which every client's noise and rounding come, so that a run that goes on repeats
            them; None draws fresh ones.

    Attributes:
        last: The last round, with what it cost; None before the first.
    """

    def __init__(self, bound: float, shares: NoiseShares = NO_SHARES, key: SecretKey | None = None) -> None:
        super().__init__()
        self.bound, self.shares, self.key = bound, shares, key
        self.last: SecureRound | None = None

    def __call__(self, changes: Mapping[int, Tensor], asked: Sequence[int], shared: PromptState, round: int) -> Total:
        """Return the sum over the clients with ``changes``; the others of those ``asked`` drop out.

        Raises:
            SecureSumError: Fewer are left than the sum needs.
        """
        check_asked(len(asked))
        nothing = torch.zeros_like(next(iter(changes.values())))
        fixed = FixedPoint(self.bound, len(asked), noise=self.shares.deviation)
        values = {client: shortened(changes.get(client, nothing), fixed).numpy() for client in asked}
        broadcast = hashlib.sha256(shared.to_bytes()).digest()
        lost = [client for client in asked if client not in changes]
        keys = simulated_keys(self.key, changes, asked, round, self.shares) if self.key else None
        up, down = Counter[int](), Counter[int]()
        try:
            self.last = secure_sum_of(
                values,
                broadcast,
                self.bound,
                lost,
                round=round,
                shares=self.shares,
                noise_keys=keys,
                bytes_up=up,
                bytes_down=down,
            )
        finally:
            self.count(up, down)
        return Total(torch.from_numpy(self.last.values), len(self.last.clients))


def check_asked(clients: int) -> None:
    """Raise SecureSumError if so few ``clients`` were asked that each would know of the others."""
    if clients < FEWEST:
        raise SecureSumError(f"a secure sum needs {FEWEST} clients, and {clients} were asked")


def expected_traffic(sums: SecretSums, clients: int, size: int) -> tuple[Traffic, Traffic]:
    """Return about the most that a sum over ``clients`` costs one of them, and about what it costs all together.

    Both come from sums of zeros over few: one client may have more to do than the others, which have as much as the
    one with the least.

    Args:
        sums: How the run sums.
        clients: Those of a round.
        size: The number of values of a change.
    """

    def bounds(count: int) -> list[int]:
        sums(dict.fromkeys(range(count), torch.zeros(size).double()), range(count), NO_PROMPT, 1)
        up, down = zip(*sums.traffic.values(), strict=True)
        return [max(up), max(down), min(up), min(down)]

    few, more = bounds(FEWEST), bounds(FEWEST + 1)
    up, down, least_up, least_down = (
        first + (clients - FEWEST) * (second - first) for first, second in zip(few, more, strict=True)
    )
    others = clients - 1
    return Traffic(up, down), Traffic(up + others * least_up, down + others * least_down)


def shortened(change: Tensor, fixed: FixedPoint) -> Tensor:
    """Return ``change`` with such a norm that it is within the bound after rounding too."""
    longest = fixed.bound * max(0.0, 1 - math.sqrt(len(change)) / fixed.largest)
    length = change.norm().item()
    return change * (longest / length) if length > longest else change


def check_enough(clients: int, participation: float) -> None:
    """Raise ConfigError if a round has too few clients for a secure sum."""
    expected = participation * clients
    if expected < FEWEST:
        raise ConfigError(
            f"privacy.secure_aggregation needs {FEWEST} clients in a round, as of two each learns the other's change "
            f"from the sum, and there are {expected:g}: use --clients {FEWEST} or more, or raise --participation"
        )
