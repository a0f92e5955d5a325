"""Shamir's shares, against a polynomial that can be computed by hand."""

from __future__ import annotations

import secrets
from itertools import combinations

import pytest
from scipy.stats import chi2_contingency, chisquare

from promptfed.errors import SecureSumError
from promptfed.privacy.shamir import PRIME, SHARE_BYTES, join, split, weights


def number(value: int, length: int = 32) -> bytes:
    return value.to_bytes(length, "big")


def test_shares_are_values_of_the_polynomial(monkeypatch):
    coefficients = iter([5, 3])  # 7 + 5 x + 3 x^2 at x = 1, 2, 3, 4
    monkeypatch.setattr(secrets, "randbelow", lambda limit: next(coefficients))
    shares = split(number(7), range(4), 3)
    assert shares == {client: number(value, SHARE_BYTES) for client, value in enumerate([15, 29, 49, 75])}


def test_the_field_holds_every_secret():
    assert PRIME > 2**256
    assert all(pow(a, PRIME - 1, PRIME) == 1 for a in (2, 3, 5, 7, 11, 2**200 + 1))  # Fermat


@pytest.mark.parametrize("secret", [bytes(32), b"\xff" * 32, bytes(range(32))])
def test_any_three_of_five_give_the_secret_back(secret):
    clients = [0, 3, 4, 17, 1000]
    shares = split(secret, clients, 3)
    for size in (3, 4, 5):
        for some in combinations(clients, size):
            assert join({client: shares[client] for client in some}) == secret


def test_weights_serve_many_secrets():
    factors = weights([1, 2, 4])
    for secret in (number(1), number(2**255)):
        assert join(split(secret, range(5), 3), factors) == secret  # shares without a factor are left alone


def test_fewer_shares_than_the_threshold_tell_nothing(fixed_secrets):
    """Two shares of three are spread alike and evenly, whether all bits of the secret are 0 or 1."""
    counts = []
    for secret in (bytes(32), b"\xff" * 32):
        bins = [0] * 16
        for _ in range(1500):
            shares = split(secret, range(3), 3)
            bins[(shares[0][1] ^ shares[1][1]) >> 4] += 1  # the first four bits of both shares together
        counts.append(bins)
    assert all(chisquare(bins).pvalue > 1e-3 for bins in counts)
    assert chi2_contingency(counts).pvalue > 1e-3


def test_fewer_shares_go_with_every_secret():
    """For two shares of three and any secret there is a third share with which they give that very secret."""
    shares = split(bytes(32), range(3), 3)
    factors = weights(range(3))
    for secret in (number(1), b"\xff" * 32):
        known = sum(factors[client] * int.from_bytes(shares[client], "big") for client in (0, 1))
        third = (int.from_bytes(secret, "big") - known) * pow(factors[2], -1, PRIME) % PRIME
        assert join({0: shares[0], 1: shares[1], 2: number(third, SHARE_BYTES)}) == secret


@pytest.mark.parametrize(
    ("secret", "clients", "threshold", "why"),
    [
        (bytes(31), [0, 1, 2], 2, "a secret of 31 bytes"),
        (bytes(32), [0, 1, 2], 4, "no 4 of 3 clients"),
        (bytes(32), [0, 1, 1], 2, "no 2 of 3 clients"),
        (bytes(32), [0, 1, 2], 0, "no 0 of 3 clients"),
        (bytes(32), [-1, 1, 2], 2, "no 2 of 3 clients"),
    ],
)
def test_what_cannot_be_shared(secret, clients, threshold, why):
    with pytest.raises(SecureSumError, match=why):
        split(secret, clients, threshold)


@pytest.mark.parametrize("share", [b"", bytes(32), number(PRIME, SHARE_BYTES)])
def test_what_is_no_share(share):
    with pytest.raises(SecureSumError, match="client 1 sent something that is no share"):
        join({0: number(1, SHARE_BYTES), 1: share})


def test_shares_that_give_no_secret():
    with pytest.raises(SecureSumError, match="do not belong together"):
        join({0: number(PRIME - 1, SHARE_BYTES)})
