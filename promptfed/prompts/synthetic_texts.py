"""Synthetic texts in a shared state: what methods that make texts leave behind, and what reads it without a model."""

from __future__ import annotations

import json
from collections.abc import Sequence

from promptfed.blackbox.text.tensors import text_of
from promptfed.method import METHODS
from promptfed.prompt_state import PromptState

TEXTS, WEIGHTS = "texts", "weights"
"""Names of the tensors: the texts as JSON, class after class and equally many of each, and a weight for each."""


def makers_of_texts() -> list[str]:
    """Return the names of the methods that make synthetic texts."""
    return [name for name in METHODS if METHODS[name].makes_texts]


def written_texts(shared: PromptState) -> list[str]:
    """Return the synthetic texts of a shared state, class after class."""
    return [str(text) for text in json.loads(text_of(shared[TEXTS]))]


def synthetic_texts(shared: PromptState, classes: Sequence[str]) -> list[tuple[str, str]]:
    """Return (text, class) of the texts of some weight, class after class, the best first."""
    texts, weights = written_texts(shared), shared[WEIGHTS]
    each = len(texts) // len(classes)
    order = sorted(range(len(texts)), key=lambda k: (k // each, -float(weights[k]), k))
    return [(texts[k], classes[k // each]) for k in order if weights[k] > 0]
