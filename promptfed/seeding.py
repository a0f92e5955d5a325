"""Every random draw comes from a stream derived from (seed, purpose, round, client); nothing global is touched.

A stream depends on its name alone, so results do not change with the engine, the order in which clients
finish, or how often a run was interrupted.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch


def derive(seed: int, *names: str | int) -> int:
    """Return a 63-bit seed for the stream called ``names`` of the run seeded with ``seed``."""
    parts = (f"{type(name).__name__}:{name}".replace("|", "||") for name in names)
    text = "|".join([str(seed), *parts])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def numpy_stream(seed: int, *names: str | int) -> np.random.Generator:
    """Return numpy's generator of the stream called ``names``."""
    return np.random.default_rng(derive(seed, *names))


def torch_stream(seed: int, *names: str | int) -> torch.Generator:
    """Return torch's generator of the stream called ``names``."""
    return torch.Generator().manual_seed(derive(seed, *names))
