"""Public pools of prompts: named in the options or read from a file once, and features of their texts."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from promptfed.blackbox.search.base import Matrix
from promptfed.blackbox.tokens.word_vectors import Embedder, word_vectors
from promptfed.errors import ConfigError
from promptfed.printable import printable
from promptfed.readers.option_file import option_lines
from promptfed.seeding import numpy_stream

MOST = 5000
"""Prompts of a pool."""
LONGEST = 2000
"""Characters of a prompt in a pool."""


def read_prompts(options: dict[str, Any]) -> dict[str, Any]:
    """Return method ``options`` in which a pool's file is replaced by its prompts.

    From then on no file is named: runs and bundles carry the prompts.

    Raises:
        ConfigError: The file cannot be read, or is no pool.
    """
    file = options.get("prompts")
    if not isinstance(file, str) or not file.startswith("file:"):
        return options
    lines = option_lines("prompts", file)
    return {**options, "prompts": list(checked_prompts([line.strip() for line in lines]))}


def checked_prompts(prompts: Sequence[str]) -> tuple[str, ...]:
    """Return ``prompts``, each once.

    Raises:
        ConfigError: There are fewer than two or too many, or one is too long or holds control characters.
    """
    distinct = tuple(dict.fromkeys(prompts))
    if not 2 <= len(distinct) <= MOST:
        raise ConfigError(f"a pool of {len(distinct)} different prompts: 2 to {MOST:,} are allowed, one a line")
    for prompt in distinct:
        if len(prompt) > LONGEST or not prompt.isprintable():
            raise ConfigError(
                f"the pool holds '{printable(prompt, 40)}', which is no prompt: one a line, of {LONGEST:,} printable "
                "characters at most"
            )
    return distinct


def agreed_prompts(option: str | Sequence[str] | None, usual: Sequence[str]) -> tuple[str, ...]:
    """Return the pool that a method's ``option`` stands for; None or 'bundled' is ``usual``.

    Raises:
        ConfigError: It still names a file, or is no pool.
    """
    if option is None or option == "bundled":
        return checked_prompts(usual)
    if isinstance(option, str):
        raise ConfigError(
            f"prompts '{printable(option, 60)}' is no pool: write 'bundled', a list, or file:PATH, a text file, one a "
            "line (read when a run is set up, never because a run or a bundle names it)"
        )
    return checked_prompts(option)


def prompt_features(prompts: Sequence[str], embedder: Embedder, dim: int, seed: int) -> Matrix:
    """Return unit features ``(prompts, dim)`` float64 of a pool; all parties that have the pool have the same.

    The texts' vectors less the pool's mean are projected to ``dim - 1`` dimensions by a random matrix of ``seed``
    (Johnson and Lindenstrauss: distances stay, more or less), or kept where they have no more. A constant is put
    beside the unit vector, so that what all prompts have in common is one weight.
    """
    vectors = word_vectors(prompts, embedder).numpy()
    written = np.array([bool(prompt.strip()) for prompt in prompts])
    vectors = np.where(written[:, None], vectors - vectors[written].mean(0), 0.0)  # the empty prompt has no direction
    if dim - 1 < vectors.shape[1]:
        vectors = vectors @ numpy_stream(seed, "projection", "prompt pool").normal(size=(vectors.shape[1], dim - 1))
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    directions = np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)
    features = np.hstack([directions, np.ones((len(prompts), 1))])
    unit: Matrix = features / np.linalg.norm(features, axis=1, keepdims=True)
    return unit


def pool_tag(prompts: Sequence[str], *options: object) -> Tensor:
    """Return ``(8,)`` uint8, the first bytes of a SHA-256: equal tags mean equal prompts and ``options``."""
    content = "\n".join([*prompts, *map(str, options)])
    return torch.tensor(list(hashlib.sha256(content.encode()).digest()[:8]), dtype=torch.uint8)
