"""Messages of a secure sum: what they hold, what is refused, and what all masks depend on."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest

from promptfed.errors import SecureSumError
from promptfed.privacy.channel_keys import Identity, KeyPair
from promptfed.privacy.sum_messages import (
    PUBLIC_BYTES,
    PublicKeys,
    check_keys,
    checked,
    commitment,
    content,
    direction,
    keys_context,
    listed,
    made,
    mask_context,
    nbytes,
    table,
)
from promptfed.privacy.sum_terms import SumTerms

TERMS = SumTerms("run", 1, 1, bytes(32), (0, 1, 2), 3, 4, 1.0)
IDENTITIES = {client: Identity(bytes([client] * 32)) for client in TERMS.cohort}
PUBLIC = {client: identity.public for client, identity in IDENTITIES.items()}
PAIRS = {client: (KeyPair.of(bytes([10 + client] * 32)), KeyPair.of(bytes([20 + client] * 32))) for client in range(3)}
KEYS = {client: PublicKeys.signed_by(IDENTITIES[client], TERMS, client, *PAIRS[client]) for client in TERMS.cohort}


def test_keys_travel_as_they_are():
    assert len(KEYS[0].packed) == PUBLIC_BYTES == 128
    assert PublicKeys.unpacked(KEYS[0].packed) == KEYS[0]
    check_keys(KEYS, TERMS, PUBLIC)


@pytest.mark.parametrize("field", ["channel", "mask", "signature"])
def test_every_byte_of_the_keys_is_signed(field):
    value = getattr(KEYS[1], field)
    changed = replace(KEYS[1], **{field: bytes([value[0] ^ 1]) + value[1:]})
    with pytest.raises(SecureSumError, match="keys of client 1 are not signed"):
        check_keys({**KEYS, 1: changed}, TERMS, PUBLIC)


def test_keys_are_signed_for_one_client():
    with pytest.raises(SecureSumError, match="keys of client 1 are not signed"):
        check_keys(KEYS, TERMS, {**PUBLIC, 1: PUBLIC[2]})
    mine = PublicKeys.signed_by(IDENTITIES[1], TERMS, 2, *PAIRS[1])
    with pytest.raises(SecureSumError, match="keys of client 1 are not signed"):
        mine.check(PUBLIC[1], TERMS, 1)


def test_masks_depend_on_terms_keys_and_sharers():
    base = keys_context(TERMS, KEYS)
    assert keys_context(TERMS, dict(reversed(KEYS.items()))) == base
    other = PublicKeys.signed_by(IDENTITIES[1], TERMS, 1, PAIRS[1][0], KeyPair.of(bytes([99] * 32)))
    contexts = [base, keys_context(replace(TERMS, broadcast=b"\1" * 32), KEYS), keys_context(TERMS, {**KEYS, 1: other})]
    contexts += [mask_context(base, (0, 1, 2)), mask_context(base, (0, 1)), commitment(base, 0, b""),
                 commitment(base, 1, b""), hashlib.sha256(direction(base, 0, 1)).digest(),
                 hashlib.sha256(direction(base, 1, 0)).digest()]  # fmt: skip
    assert len(set(contexts)) == len(contexts)
    assert mask_context(base, (2, 0, 1)) == mask_context(base, {0, 1, 2})


def test_a_message_is_of_one_kind_and_these_terms():
    message = made("keys", TERMS, keys=b"1")
    assert checked(message, "keys", TERMS, "keys") == message
    for other, kind, names, why in [
        (message, "shares", ["keys"], "a message 'shares' was due, and 'keys' came"),
        (7, "keys", ["keys"], "was due, and 'int' came"),
        ({**message, "terms": bytes(16)}, "keys", ["keys"], "not of round 1, attempt 1, with the same broadcast"),
        (message, "keys", ["keys", "seed"], "does not hold keys, seed alone"),
        ({**message, "more": 1}, "keys", ["keys"], "does not hold keys alone"),
        ({"kind": "\x1b[2J"}, "keys", ["keys"], r"and '\\x1b\[2J' came"),
    ]:
        with pytest.raises(SecureSumError, match=why):
            checked(other, kind, TERMS, *names)


def test_parts_have_their_lengths_and_clients():
    message = made("x", TERMS, a=b"123", b={"0": b"12", "2": b"34"}, c=[2, 0])
    assert content(message, "a", 3) == b"123"
    assert table(message, "b", (0, 1, 2), 2) == {0: b"12", 2: b"34"}
    assert listed(message, "c", (0, 1, 2)) == {0, 2}
    for part in (
        lambda: content(message, "a", 4),
        lambda: content(message, "c", 3),
        lambda: table(message, "a", (0, 1, 2), 2),
        lambda: table(message, "b", (0, 1, 2), 3),
        lambda: table(message, "b", (0, 1), 2),
        lambda: table({**message, "b": {"00": b"12"}}, "b", (0, 1), 2),
        lambda: listed(message, "c", (0, 1)),
        lambda: listed(message, "a", (0, 1)),
        lambda: listed({**message, "c": [0, 0]}, "c", (0, 1)),
        lambda: listed({**message, "c": [0.0]}, "c", (0, 1)),
    ):
        with pytest.raises(SecureSumError, match="of a message 'x'"):
            part()


def test_bytes_are_counted():
    assert nbytes(made("keys", TERMS, keys=KEYS[0].packed)) == len("kind" + "keys" + "terms" + "keys") + 16 + 128
    assert nbytes({"clients": [1, 2]}) == 7 + 16
