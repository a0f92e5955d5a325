"""The steps of an epoch: how many examples each has, and which of them pass through the loss at once.

A step encodes the texts of all classes once. Twice the classes with as many examples each make twice the steps, each of
twice the texts, so the cost of an epoch grows with the square of the number of classes. Steps with more examples, or
with fewer classes (class_sample.py), cost less.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

BATCH = 32
"""Examples of a step by default, and of a part of a larger step of ``batch_size`` "all" or "auto"."""
FEW_CLASSES = 200
"""Up to so many classes a step has BATCH examples by default."""
TEXTS_AN_EPOCH = 2_000
"""With more classes a client's epoch has as many steps by default as encode about so many texts."""

BatchSize = int | Literal["auto", "all"]


def examples_in_a_step(batch_size: BatchSize, examples: int, classes: int) -> int:
    """Return how many examples a step has, which share one pass of the texts.

    "auto" is BATCH for up to FEW_CLASSES classes. With more of them, steps are made larger where an epoch would encode
    more than TEXTS_AN_EPOCH texts: all steps but the last have the same multiple of BATCH, and at least one is taken.

    Args:
        batch_size: The option.
        examples: How many a client has.
        classes: How many texts a step encodes for each prompt.
    """
    if batch_size == "all":
        return max(1, examples)
    if batch_size != "auto":
        return batch_size
    if classes <= FEW_CLASSES:
        return BATCH
    steps = max(1, TEXTS_AN_EPOCH // classes)
    return BATCH * max(1, math.ceil(examples / (steps * BATCH)))


def epoch(examples: int, step: int, part: int, shuffle: torch.Generator) -> Iterator[tuple[Tensor, ...]]:
    """Yield the steps of an epoch, each in parts: rows of a client's examples, in a random order.

    Args:
        examples: How many there are.
        step: How many a step has; the last one has the rest.
        part: How many of a step pass through the loss at once.
        shuffle: The stream of the order, which depends on ``examples`` alone.
    """
    for rows in torch.randperm(examples, generator=shuffle).split(min(step, max(1, examples))):
        yield rows.split(min(part, max(1, examples)))
