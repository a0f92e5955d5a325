"""Keys of a secure sum, against the definitions of what they use."""

from __future__ import annotations

import hmac

import pytest

from promptfed.errors import SecureSumError
from promptfed.privacy.channel_keys import SEAL_BYTES, Identity, KeyPair, derived, is_signed, seal, unseal


def test_a_signature_is_of_one_message_by_one_identity():
    one, other = Identity.new(), Identity.new()
    signature = one.sign(b"round 3")
    assert is_signed(one.public, signature, b"round 3")
    assert not is_signed(one.public, signature, b"round 4")
    assert not is_signed(other.public, signature, b"round 3")
    assert not is_signed(one.public, signature[:-1], b"round 3")
    assert not is_signed(b"no key", signature, b"round 3")
    assert Identity(one.private).public == one.public


def test_two_pairs_agree_on_a_secret_for_each_use():
    one, other, third = KeyPair.new(), KeyPair.new(), KeyPair.new()
    assert one.secret(other.public, b"mask") == other.secret(one.public, b"mask")
    assert one.secret(other.public, b"mask") != one.secret(other.public, b"share")
    assert one.secret(other.public, b"mask") != third.secret(other.public, b"mask")
    assert KeyPair.of(one.private) == one


def test_derivation_is_hkdf():
    """RFC 5869: extract with a salt of zeros, expand by one block."""
    extracted = hmac.digest(bytes(32), b"secret", "sha256")
    assert derived(b"secret", b"use") == hmac.digest(extracted, b"use\x01", "sha256")


@pytest.mark.parametrize("public", [bytes(32), (1).to_bytes(32, "little"), b"short"])
def test_a_key_that_gives_everybody_the_same_secret_is_refused(public):
    with pytest.raises(SecureSumError, match="a public key is none"):
        KeyPair.new().secret(public, b"mask")


def test_what_is_sealed_is_read_with_its_key_and_header_alone():
    key = bytes(range(32))
    sealed = seal(key, b"two shares", b"1 to 2")
    assert unseal(key, sealed, b"1 to 2") == b"two shares"
    assert len(sealed) == len(b"two shares") + SEAL_BYTES
    assert seal(key, b"two shares", b"1 to 2") != sealed
    flipped = sealed[:-1] + bytes([sealed[-1] ^ 1])
    for attempt in [
        (bytes(32), sealed, b"1 to 2"),
        (key, sealed, b"1 to 3"),
        (key, flipped, b"1 to 2"),
        (key, b"", b""),
    ]:
        with pytest.raises(SecureSumError, match="changed on its way, or is of another round"):
            unseal(*attempt)


def test_private_keys_are_not_shown():
    pair, identity = KeyPair.new(), Identity.new()
    assert repr(pair.private) not in repr(pair)
    assert repr(identity.private) not in repr(identity)
