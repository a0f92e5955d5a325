"""Secrets that are the same in every run, and the parties of a secure sum in one process."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Collection
from dataclasses import replace

import numpy as np
import pytest

from promptfed.privacy.channel_keys import Identity
from promptfed.privacy.secure_member import Member
from promptfed.privacy.secure_sum import SecureSum, Summation
from promptfed.privacy.sum_terms import SumTerms, default_threshold


@pytest.fixture
def fixed_secrets(monkeypatch):
    stream = np.random.default_rng(20)
    monkeypatch.setattr(secrets, "token_bytes", stream.bytes)
    monkeypatch.setattr(secrets, "randbelow", lambda limit: int.from_bytes(stream.bytes(64), "big") % limit)


class Parties:
    """``count`` members and their server, each client with values from -0.1 to 0.1."""

    def __init__(self, count: int, threshold: int | None = None, size: int = 16, max_weight: int = 1) -> None:
        threshold = default_threshold(count) if threshold is None else threshold
        broadcast = hashlib.sha256(b"the prompt").digest()
        self.terms = SumTerms("run", 3, 1, broadcast, tuple(range(count)), threshold, size, 0.1, max_weight)
        self.identities = {client: Identity(bytes([client + 1] * 32)) for client in range(count)}
        self.public = {client: identity.public for client, identity in self.identities.items()}
        self.values = np.random.default_rng(count).uniform(-0.1, 0.1, (count, size))
        self.begin()

    def begin(self, **terms: object) -> None:
        """Make all parties anew, with other terms."""
        self.terms = replace(self.terms, **terms)
        self.members = {client: self.member(client) for client in self.terms.cohort}
        self.server = Summation(self.terms, self.public)

    def member(self, client: int, **terms: object) -> Member:
        """One of them, perhaps with terms of its own."""
        return Member(client, replace(self.terms, **terms), self.identities[client], self.public)

    def keys(self, lost: Collection[int] = ()) -> dict:
        """Go through the first leg; return what is sent to all."""
        for client, member in self.members.items():
            if client not in lost:
                self.server.add(client, member.keys())
        return self.server.all_keys()

    def shares(self, lost_keys: Collection[int] = (), unshared: Collection[int] = ()) -> dict[int, dict]:
        """Go through the first two legs; return what is sent to each."""
        message = self.keys(lost_keys)
        for client in self.members.keys() - {*lost_keys, *unshared}:
            self.server.add(client, self.members[client].shares(message))
        return self.server.forwarded()

    def masked(self, lost: Collection[int] = (), weights: dict[int, int] | None = None, **earlier: object) -> dict:
        """Go through three legs; return what is sent to the survivors: who they are."""
        for client, message in self.shares(**earlier).items():
            if client not in lost:
                weight = 1 if weights is None else weights[client]
                self.server.add(client, self.members[client].masked(message, self.values[client], weight))
        return self.server.survivors()

    def consents(self, survivors: dict, unsigned: Collection[int] = ()) -> dict:
        """Go through the fourth leg, after the server sent ``survivors``; return what is sent to those who signed."""
        for client in survivors["survivors"]:
            if client not in unsigned:
                self.server.add(client, self.members[client].consent(survivors))
        return self.server.consents()

    def sum(self, silent: Collection[int] = (), unsigned: Collection[int] = (), **earlier: object) -> SecureSum:
        """Go through all legs; ``silent`` ones miss the last, ``unsigned`` ones the last two."""
        message = self.consents(self.masked(**earlier), unsigned)
        for client in map(int, message["signatures"]):
            if client not in silent:
                self.server.add(client, self.members[client].unmask(message))
        return self.server.result()


@pytest.fixture(scope="session")
def parties():
    return Parties
