"""Without cryptography, what needs it says so, and all else works."""

from __future__ import annotations

import sys

import pytest

from promptfed.errors import ConfigError
from promptfed.privacy.channel_keys import Identity, KeyPair
from promptfed.privacy.masks import stream_words
from promptfed.privacy.shamir import join, split


@pytest.mark.parametrize(
    "work",
    [lambda: Identity.new().public, KeyPair.new, lambda: stream_words(bytes(32), 1)],
    ids=["sign", "key", "mask"],
)
def test_the_error_names_the_extra(monkeypatch, work):
    monkeypatch.setitem(sys.modules, "cryptography", None)
    with pytest.raises(ConfigError, match=r"^secure sums need cryptography, .*: pip install 'promptfed\[secure\]'$"):
        work()


def test_shares_do_without(monkeypatch):
    monkeypatch.setitem(sys.modules, "cryptography", None)
    assert join(split(bytes(32), range(3), 2)) == bytes(32)
