"""Who takes part in a round: a secret coin for each client (Poisson sampling).

Amplification by sampling holds for exactly this scheme, and only as long as nobody who is to be kept from learning
knows who took part. Participants drawn from ``config.seed`` are known to every site, and a cohort of a fixed size is
another theorem.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from promptfed.privacy.noise import NoiseStream
from promptfed.privacy.secret_key import SecretKey


def poisson_sample(
    key: SecretKey | bytes, round: int, clients: int, probability: float, stage: str = ""
) -> tuple[int, ...]:
    """Return the clients that take part in ``round``, in rising order; none at all is a result like any other.

    Each of ``clients`` clients is in with ``probability``, whoever else is: round, client and stage decide, so a
    round that is run again has the same participants.
    """
    if not 0 < probability <= 1:
        raise ValueError(f"a probability of taking part is above 0 and at most 1, not {probability}")
    coins = NoiseStream(key, "participants", stage, round).words(clients)
    limit = int(Fraction(probability) * 2**64)
    chosen = coins <= np.uint64(limit - 1) if limit else np.zeros(clients, np.bool_)
    return tuple(int(client) for client in np.flatnonzero(chosen))
