"""Masks: what is known of AES, and that nothing is left of them in a sum."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import chisquare

from promptfed.privacy.channel_keys import KeyPair
from promptfed.privacy.masks import from_bytes, pair_mask, self_mask, stream_words, to_bytes

CONTEXT = bytes(range(32))
ONE, OTHER = KeyPair.of(bytes([1] * 32)), KeyPair.of(bytes([2] * 32))


def test_the_stream_is_that_of_aes_256():
    zeros = stream_words(bytes(32), 4)  # the block of zeros under the key of zeros, from NIST's tables
    assert to_bytes(zeros).hex() == "dc95c078a2408989ad48a21492842087"
    assert np.array_equal(stream_words(bytes(32), 9)[:4], zeros)


def test_the_masks_of_a_pair_cancel():
    for low, high in [(0, 1), (3, 700)]:
        down = pair_mask(ONE, OTHER.public, CONTEXT, low, high, 1000)
        up = pair_mask(OTHER, ONE.public, CONTEXT, high, low, 1000)
        assert not (down + up).any()
        assert down.any()


def test_with_another_broadcast_they_do_not():
    down = pair_mask(ONE, OTHER.public, CONTEXT, 0, 1, 25_000)
    up = pair_mask(OTHER, ONE.public, bytes(32), 1, 0, 25_000)
    assert chisquare(np.bincount((down + up).view(np.uint8), minlength=256)).pvalue > 1e-3


@pytest.mark.parametrize("key", [bytes(32), CONTEXT])
def test_every_byte_is_as_likely(key):
    counts = np.bincount(np.frombuffer(to_bytes(stream_words(key, 25_000)), np.uint8), minlength=256)
    assert counts.sum() == 100_000
    assert chisquare(counts).pvalue > 1e-3


def test_masks_depend_on_seed_context_and_client():
    masks = [self_mask(seed, context, client, 8) for seed in (bytes(32), CONTEXT) for context in (b"a", b"b")
             for client in (0, 1)]  # fmt: skip
    assert len({mask.tobytes() for mask in masks}) == len(masks)
    assert np.array_equal(masks[0], self_mask(bytes(32), b"a", 0, 8))


def test_words_travel_as_they_are():
    words = np.array([0, 1, 2**31, 2**32 - 1], dtype=np.uint32)
    assert to_bytes(words).hex() == "00000000" + "01000000" + "00000080" + "ffffffff"
    assert np.array_equal(from_bytes(to_bytes(words)), words)
    assert from_bytes(to_bytes(words)).view(np.int32).tolist() == [0, 1, -(2**31), -1]
