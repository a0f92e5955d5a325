"""Share a secret among clients so that any t of them give it back and t - 1 tell nothing (Shamir 1979)."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Mapping

from promptfed.errors import SecureSumError

PRIME = 2**256 + 297
"""Size of the field: the smallest prime that holds every secret of 32 bytes, so that shares are short."""
SECRET_BYTES, SHARE_BYTES = 32, 33


def split(secret: bytes, clients: Collection[int], threshold: int) -> dict[int, bytes]:
    """Return client -> its share of ``secret``.

    A share is the value of a random polynomial of degree ``threshold - 1`` at client + 1; at 0 it is the secret. The
    coefficients come from the operating system.

    Args:
        secret: 32 bytes.
        clients: Numbers from 0, each once.
        threshold: How many shares give the secret back.

    Raises:
        SecureSumError: The secret has another length, or there are not as many clients as the threshold says.
    """
    if len(secret) != SECRET_BYTES:
        raise SecureSumError(f"a secret of {len(secret)} bytes cannot be shared; it must have {SECRET_BYTES}")
    if not 1 <= threshold <= len(set(clients)) == len(clients) or min(clients) < 0:
        raise SecureSumError(f"no {threshold} of {len(clients)} clients can share a secret")
    coefficients = [int.from_bytes(secret, "big"), *(secrets.randbelow(PRIME) for _ in range(threshold - 1))]
    return {client: _value(coefficients, client + 1).to_bytes(SHARE_BYTES, "big") for client in clients}


def weights(clients: Collection[int]) -> dict[int, int]:
    """Return client -> the factor of its share in the sum that is the secret (Lagrange's interpolation at 0).

    It does not depend on the secret: for many secrets that the same clients share it is computed once.
    """
    points = [client + 1 for client in clients]
    factors = {}
    for client, x in zip(clients, points, strict=True):
        above = below = 1
        for other in points:
            if other != x:
                above = above * other % PRIME
                below = below * (other - x) % PRIME
        factors[client] = above * pow(below, -1, PRIME) % PRIME
    return factors


def join(shares: Mapping[int, bytes], factors: Mapping[int, int] | None = None) -> bytes:
    """Return the secret of which ``shares`` (client -> share) are as many as the threshold says.

    Args:
        shares: Client -> its share. With fewer than the threshold says, what comes back is as good as random.
        factors: ``weights(shares)``, for a caller that has them.

    Raises:
        SecureSumError: A share is none, or together they give no secret of 32 bytes.
    """
    factors = weights(shares) if factors is None else factors
    total = 0
    for client, factor in factors.items():
        value = int.from_bytes(shares[client], "big")
        if len(shares[client]) != SHARE_BYTES or value >= PRIME:
            raise SecureSumError(f"client {client} sent something that is no share of a secret")
        total = (total + factor * value) % PRIME
    if total >= 1 << (8 * SECRET_BYTES):
        raise SecureSumError("the shares of a secret do not belong together")
    return total.to_bytes(SECRET_BYTES, "big")


def _value(coefficients: list[int], x: int) -> int:
    """Return the polynomial's value at ``x``, by Horner's rule."""
    value = 0
    for coefficient in reversed(coefficients):
        value = (value * x + coefficient) % PRIME
    return value
