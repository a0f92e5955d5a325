"""Vectors of words for a server that compares or combines tokens: from a public encoder, never from client data."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cache, lru_cache
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from promptfed.backbones.minilm import load_minilm

Embedder = Literal["minilm", "hashing"]
DIGITS = 5
"""Decimals of vectors: a word's vector does not depend on its batch."""
HASHED = 256
"""Dimensions of hashed vectors."""


def word_vectors(words: Sequence[str], embedder: Embedder) -> Tensor:
    """Return unit vectors ``(words, dim)`` float64; zeros for an empty word. The same word always has the same vector.

    minilm: sentence embeddings of the encoder that comes with promptfed. hashing: counts of character n-grams (3 to 5
    letters) hashed to ``HASHED`` places with signs: no model, and near only if spelt alike.
    """
    find = _encoded if embedder == "minilm" else _hashed
    return torch.stack([find(word) for word in words])


@cache
def _encoder() -> tuple[Any, Any]:
    reader, tokenizer = load_minilm()
    return reader.eval().requires_grad_(False), tokenizer


@lru_cache(maxsize=4096)
@torch.no_grad()
def _encoded(word: str) -> Tensor:
    reader, tokenizer = _encoder()
    ids = torch.tensor([tokenizer.encode(word).ids])
    if not word.strip():
        return torch.zeros(reader.config.hidden_size, dtype=torch.float64)
    mean: Tensor = reader(ids).last_hidden_state[0].double().mean(0)
    return F.normalize(mean, dim=0).mul(10**DIGITS).round().div(10**DIGITS)


@lru_cache(maxsize=4096)
def _hashed(word: str) -> Tensor:
    counts = torch.zeros(HASHED, dtype=torch.float64)
    framed = f"<{word.lower()}>"
    if word.strip():
        for size in (3, 4, 5):
            for start in range(len(framed) - size + 1):
                digest = hashlib.sha256(framed[start : start + size].encode()).digest()
                counts[int.from_bytes(digest[:4], "big") % HASHED] += 1 if digest[4] % 2 else -1
    return F.normalize(counts, dim=0)
