"""Noise that the clients of a secure sum add themselves, a share each, so that nobody sees the sum without it.

Each client adds discrete Gaussian noise of standard deviation ``z C / sqrt(h)`` to its change in fixed point, before it
is masked. So the shares of h clients together are what a trusted server would have added. A server that works together
with clients knows their shares and takes them off; those of h honest ones in the sum stay. Clients that are lost take
their shares with them, which is why h is at most the threshold of the sum.

A sum of discrete Gaussians is not one exactly. ``slack`` is how much epsilon grows by that, by Kairouz, Liu and Steinke
2021 (DDGauss, arXiv 2102.06387): nil for the shares that are allowed here. Rounding costs nothing more, because a
change is shortened until it is within the clip after it (``shortened``).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from promptfed.errors import SecureSumError
from promptfed.privacy.fixed_point import FixedPoint
from promptfed.privacy.masks import Words
from promptfed.privacy.noise import NoiseStream, discrete_gaussian
from promptfed.privacy.secret_key import SecretKey
from promptfed.privacy.sum_terms import default_threshold
from promptfed.privacy_options import PrivacyOptions

MOST_SLACK = 1e-5
"""Most by which epsilon of one release may grow because noise is on a grid."""
MOST_ROUNDING = 1 / 64
"""Share of its length that a change may lose, lest rounding bring it beyond the clip."""


@dataclass(frozen=True)
class NoiseShares:
    """What the clients add: ``honest`` shares together have a standard deviation of ``multiplier`` times the clip."""

    multiplier: float = 0.0
    honest: int = 0

    @property
    def deviation(self) -> float:
        """The standard deviation of one share over the clip."""
        return self.multiplier / math.sqrt(self.honest) if self.multiplier else 0.0


NO_SHARES = NoiseShares()


def shares_of(terms: PrivacyOptions, clients: int) -> NoiseShares:
    """Return what each of ``clients`` adds by ``terms``, ``NO_SHARES`` where the server adds the noise.

    Without ``privacy.honest`` the shares of as many clients suffice as a sum has at least.
    """
    if terms.noise_at != "clients":
        return NO_SHARES
    return NoiseShares(terms.noise or 0.0, terms.honest or default_threshold(clients))


def noise_words(key: bytes, count: int, sigma: int) -> Words:
    """Return ``count`` values of discrete Gaussian noise, ``sigma`` steps wide, modulo 2^32: a function of ``key``."""
    return discrete_gaussian(NoiseStream(key, "share"), count, sigma).astype(np.uint32)


def simulated_keys(
    key: SecretKey, changes: Mapping[int, Tensor], asked: Sequence[int], round: int, shares: NoiseShares
) -> dict[int, bytes]:
    """Return client -> the 32 bytes that its noise comes from, for simulated clients of the run with ``key``.

    They depend on all changes: a round that is repeated is the same release, and another sum (one client is lost more)
    has other noise of every client. Two sums with the same noise would show one client by their difference.
    """
    mark = sum_mark(key, changes, asked, round, shares)
    return {client: key.keyed_hash(b"promptfed client noise 1" + mark + client.to_bytes(8, "big")) for client in asked}


def sum_mark(
    key: SecretKey, changes: Mapping[int, Tensor], asked: Sequence[int], round: int, shares: NoiseShares
) -> bytes:
    """Return 32 bytes that tell one sum from another, and without the key nothing of its changes."""
    said = hashlib.sha256(repr((round, sorted(asked), shares.multiplier.hex(), shares.honest)).encode())
    for client, change in sorted(changes.items()):
        said.update(client.to_bytes(8, "big") + (change.double() + 0.0).numpy().astype("<f8").tobytes())
    return key.keyed_hash(b"promptfed sum 1" + said.digest())


def check_shares(size: int, fixed: FixedPoint, honest: int) -> None:
    """Check that the noise of ``honest`` clients is as good as that of one server.

    Args:
        size: Values of a change.
        fixed: How they are written.
        honest: Clients whose shares suffice.

    Raises:
        SecureSumError: The noise is too little for its grid, or there are too many values.
    """
    if math.sqrt(size) > MOST_ROUNDING * fixed.largest or slack(size, fixed.noise_steps, honest) > MOST_SLACK:
        raise SecureSumError(
            f"shares of noise of {fixed.noise_steps:,} steps are too small, or {size:,} values are too many, for "
            f"{fixed.fraction_bits} bits of a value: raise privacy.noise, or send fewer values"
        )


def slack(size: int, sigma: int, honest: int) -> float:
    """Return how much more than the Gaussian curve ``honest`` shares of ``sigma`` steps can spend in a release.

    The sum of the shares is within ``tau`` of one discrete Gaussian in each value (Kairouz et al. 2021), and that is
    the rounded continuous one up to ``(x^2 / s^2 + 1) / (24 s^2)``, for s = sqrt(honest) sigma and x within 12 s; both
    count twice, for two neighbouring sums.
    """
    terms = (math.exp(-2 * math.pi**2 * sigma**2 * k / (k + 1)) for k in range(1, honest))
    return 2 * size * (10 * sum(terms) + (12**2 + 1) / (24 * honest * sigma**2))
