"""A client's guesses of the labels that it lacks, as a value: they are remembered at the client, and never sent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from promptfed.processors.client_state import MEMORY
from promptfed.types import ClientData, Split

ROUND, ROWS, LABELS, TARGETS = (f"{MEMORY}fes.{name}" for name in ("round", "rows", "labels", "targets"))


@dataclass(frozen=True, eq=False)
class PseudoLabels:
    """What a client has labelled itself.

    Attributes:
        round: The round at whose start it did.
        rows: Places ``(m,)`` in its unlabelled examples.
        labels: The most probable class of each ``(m,)``.
        targets: The probabilities of all classes ``(m, classes)``; None where labels are hard.
    """

    round: int
    rows: Tensor
    labels: Tensor
    targets: Tensor | None = None

    def tensors(self) -> dict[str, Tensor]:
        """Return it as the client remembers it."""
        tensors = {ROUND: torch.tensor([self.round]), ROWS: self.rows, LABELS: self.labels}
        return tensors if self.targets is None else {**tensors, TARGETS: self.targets}


def remembered(tensors: Mapping[str, Tensor]) -> PseudoLabels | None:
    """Return the pseudo-labels among a client's ``tensors``; None if it has made none yet."""
    if ROUND not in tensors:
        return None
    return PseudoLabels(int(tensors[ROUND].item()), tensors[ROWS], tensors[LABELS], tensors.get(TARGETS))


def with_pseudo_labels(data: ClientData, pseudo: PseudoLabels, classes: int) -> ClientData:
    """Return ``data`` whose training examples are the labelled ones and those of ``pseudo``.

    Soft labels stand beside the one-hot distributions of the labels that are known.
    """
    if not len(pseudo.rows):
        return data
    items = tuple(data.unlabelled.items[row] for row in pseudo.rows.tolist())
    targets = None
    if pseudo.targets is not None:
        one_hot = F.one_hot(data.train.labels, classes).to(pseudo.targets)
        targets = torch.cat([one_hot, pseudo.targets])
    labels = torch.cat([data.train.labels, pseudo.labels])
    return replace(data, train=Split((*data.train.items, *items), labels, targets))


def right_among(data: ClientData, pseudo: PseudoLabels) -> int | None:
    """Return how many of ``pseudo`` are right; None where nobody knows. For the log alone."""
    if not len(data.true_labels):
        return None
    return int((data.true_labels[pseudo.rows] == pseudo.labels).sum())
