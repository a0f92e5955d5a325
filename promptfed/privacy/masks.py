"""Masks of a secure sum: 32-bit words that look random and that two clients, or one and t helpers, can make again."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from promptfed.privacy.channel_keys import KeyPair, derived
from promptfed.privacy.secure_extra import require_cryptography

Words = npt.NDArray[np.uint32]
"""Integers modulo 2^32; they travel as the int32 of the same bits."""
WORD_BYTES = 4


def stream_words(key: bytes, count: int) -> Words:
    """Return ``count`` words of the stream of ``key`` (32 bytes): AES-256 in counter mode, from 0.

    A key has one stream, so whatever is hidden by it must have a key of its own.
    """
    require_cryptography()
    from cryptography.hazmat.primitives.ciphers import Cipher
    from cryptography.hazmat.primitives.ciphers.algorithms import AES
    from cryptography.hazmat.primitives.ciphers.modes import CTR

    stream = Cipher(AES(key), CTR(bytes(16))).encryptor().update(bytes(WORD_BYTES * count))
    return np.frombuffer(stream, "<u4").astype(np.uint32, copy=False)


def self_mask(seed: bytes, context: bytes, client: int, count: int) -> Words:
    """Return what ``client`` adds by itself. Who knows ``seed`` can take it off.

    Args:
        seed: 32 random bytes.
        context: What everybody in the sum must have in common, hashed: round, broadcast, keys.
        client: Whose it is.
        count: The number of words.
    """
    return stream_words(derived(seed, b"self mask" + context + _number(client)), count)


def pair_mask(own: KeyPair, other: bytes, context: bytes, client: int, peer: int, count: int) -> Words:
    """Return what ``client`` adds because ``peer`` adds the negative of it: in the sum over both nothing is left.

    Both compute it, each from its own pair and the other's public key; the one with the lower number adds it. If their
    contexts differ, so do the masks, and the sum is garbage: a server cannot send one client another broadcast and
    still read the sum.

    Args:
        own: The pair of ``client``.
        other: The public key of ``peer``.
        context: What everybody in the sum must have in common, hashed: round, broadcast, keys.
        client: Who adds it.
        peer: With whom.
        count: The number of words.
    """
    low, high = sorted((client, peer))
    words = stream_words(own.secret(other, b"pair mask" + context + _number(low) + _number(high)), count)
    return words if client == low else np.negative(words)


def to_bytes(words: Words) -> bytes:
    """Return words as they travel: int32, the lowest byte first."""
    return words.astype("<u4", copy=False).tobytes()


def from_bytes(content: bytes) -> Words:
    """Return words that travelled."""
    return np.frombuffer(content, "<u4").astype(np.uint32, copy=False)


def _number(value: int) -> bytes:
    return value.to_bytes(8, "big")
