"""Class prototypes: means of a client's features by class, and the loss that contrasts an example with them.

Tan et al., NeurIPS 2022 (FedPCL, arXiv 2209.10083). A class of which there are too few examples has no prototype: its
row is zero and its count is 0, and nothing is compared with it.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def class_prototypes(features: Tensor, labels: Tensor, classes: int, minimum: int = 1) -> tuple[Tensor, Tensor]:
    """Return the mean feature of each class, and of how many examples it is the mean.

    Args:
        features: ``(n, dim)``; each is brought to unit length first.
        labels: ``(n,)`` classes of the features.
        classes: How many classes there are.
        minimum: A class with fewer examples has no prototype. The mean of one example is that example.

    Returns:
        ``(classes, dim)`` and counts ``(classes,)``; zero where a class has no prototype.

    >>> class_prototypes(torch.tensor([[3.0, 0], [0, 2], [0, 1]]), torch.tensor([0, 0, 1]), 2, minimum=2)
    (tensor([[0.5000, 0.5000],
            [0.0000, 0.0000]]), tensor([2., 0.]))
    """
    counts = labels.bincount(minlength=classes).to(features)
    counts = torch.where(counts >= minimum, counts, 0)
    sums = features.new_zeros(classes, features.shape[1]).index_add(0, labels, F.normalize(features, dim=-1))
    return torch.where(counts[:, None] > 0, sums / counts.clamp(min=1)[:, None], 0), counts


def global_prototypes(prototypes: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean prototype of each class over clients, weighted by their examples, and how many these are.

    Args:
        prototypes: ``(clients, classes, dim)``.
        counts: ``(clients, classes)``.

    Returns:
        ``(classes, dim)`` and ``(classes,)``.
    """
    totals = counts.sum(0)
    shares = counts / totals.clamp(min=1)
    return torch.einsum("kc,kcd->cd", shares, prototypes), totals


def contrast(features: Tensor, labels: Tensor, prototypes: Tensor, counts: Tensor, temperature: float) -> Tensor:
    """Return each example's ``-log softmax_c(cos(z, P_c) / t)`` at its own class, over the classes with a prototype.

    Args:
        features: z, ``(n, dim)``.
        labels: ``(n,)``.
        prototypes: P, ``(classes, dim)``.
        counts: ``(classes,)``; 0 for a class without a prototype.
        temperature: t.

    Returns:
        ``(n,)``; 0 where the example's class has no prototype. The softmax of many classes tends to
        ``log(classes)`` as t grows.
    """
    return contrast_to_clients(features, labels, prototypes[None], counts[None], temperature)


def contrast_to_clients(
    features: Tensor, labels: Tensor, prototypes: Tensor, counts: Tensor, temperature: float
) -> Tensor:
    """Return each example's mean ``contrast`` to the prototypes of those clients that have one of its class.

    Args:
        features: ``(n, dim)``.
        labels: ``(n,)``.
        prototypes: ``(clients, classes, dim)``.
        counts: ``(clients, classes)``.
        temperature: As in ``contrast``.

    Returns:
        ``(n,)``; 0 where no client has a prototype of the example's class.
    """
    there = counts > 0
    cosines = torch.einsum("nd,kcd->nkc", F.normalize(features, dim=-1), F.normalize(prototypes, dim=-1))
    scores = (cosines / temperature).masked_fill(~there, -torch.inf)
    holds = there[:, labels].T
    log_shares = F.log_softmax(scores.masked_fill(~there.any(1)[:, None], 0), dim=-1)
    losses = -log_shares.gather(2, labels[:, None, None].expand(-1, len(counts), 1))[:, :, 0]
    return torch.where(holds, losses, 0).sum(1) / holds.sum(1).clamp(min=1)
