"""Secrets that are the same in every run, for tests that count."""

from __future__ import annotations

import secrets

import numpy as np
import pytest


@pytest.fixture
def fixed_secrets(monkeypatch):
    stream = np.random.default_rng(20)
    monkeypatch.setattr(secrets, "token_bytes", stream.bytes)
    monkeypatch.setattr(secrets, "randbelow", lambda limit: int.from_bytes(stream.bytes(64), "big") % limit)
