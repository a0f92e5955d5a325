"""FedPepTAO's score of a layer, by which the layers whose prompts are shared are chosen, without training."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

FLOOR = 1e-5
"""Added to eigenvalues; so a layer that maps two texts to the same states scores about 1e5."""


def layer_score(states: Tensor) -> float:
    """Return ``sum_i (log l_i + 1 / l_i)`` over the eigenvalues of the texts' matrix of cosines.

    The released code's score. It is large where texts look alike; the training-free score that it resembles has the
    opposite sign.

    Args:
        states: What a layer makes of each text ``(texts, ...)``, all the rest of which is one vector; padding is zero.

    >>> round(layer_score(torch.eye(2)), 3)
    2.0
    """
    rows = F.normalize(states.flatten(1).double(), dim=1)
    eigenvalues = torch.linalg.eigvalsh(rows @ rows.T) + FLOOR
    return float((eigenvalues.log() + 1 / eigenvalues).sum())


def ranking(scores: Sequence[float]) -> list[int]:
    """Return layers from the highest of their ``scores`` to the lowest; of equal ones, the lower layer first."""
    return sorted(range(len(scores)), key=lambda layer: -scores[layer])


def chosen_layers(scores: Sequence[float], count: int) -> list[int]:
    """Return the ``count`` layers with the highest ``scores``, rising."""
    return sorted(ranking(scores)[:count])
