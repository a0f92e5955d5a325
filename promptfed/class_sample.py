"""Sampled softmax: a step's loss over the classes of its examples and some others, drawn at random.

The text tower then encodes those classes only, and not all of them in every step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class ClassSample:
    """The classes in the softmax of one step.

    Class c is in the sample with probability ``q(c)``: 1 for a class of the step's examples, and ``others / rest`` for
    each of the ``rest`` other ones, of which ``others`` are drawn without replacement. Its logit is corrected by
    ``-log q(c)``, as in the sampled softmax of Bengio and Senecal (2008) and Jean et al. (2015). The corrected sum of
    exponentials has the expectation of the sum over all classes. Its logarithm is below that of the whole sum on
    average (Jensen), so the loss and its gradient keep a bias, which falls as more classes are drawn.

    Attributes:
        columns: Positions of the sample among the classes, rising ``(k,)``; None: all classes, and nothing is drawn.
        correction: ``-log q`` of each ``(k,)``.
    """

    columns: Tensor | None = None
    correction: Tensor | None = None

    def of(self, values: Tensor, dim: int = 0) -> Tensor:
        """Return the rows of the sample out of ``values``, which has one of every class along ``dim``."""
        return values if self.columns is None else values.index_select(dim, self.columns)

    def positions(self, labels: Tensor) -> Tensor:
        """Return where classes stand in the sample ``(n,)``; all of ``labels`` ``(n,)`` must be in it."""
        return labels if self.columns is None else torch.searchsorted(self.columns, labels)

    def cross_entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the mean cross-entropy of ``logits`` ``(n, k)`` of the sample; ``labels`` count all classes."""
        corrected = logits if self.correction is None else logits + self.correction
        return F.cross_entropy(corrected, self.positions(labels))

    def sum(self, values: Tensor) -> Tensor:
        """Return an unbiased estimate of the sum over all classes ``(...)``, from those of the sample ``(..., k)``."""
        return values.sum(-1) if self.correction is None else (values * self.correction.exp()).sum(-1)  # 1 / q

    def mean(self, values: Tensor) -> Tensor:
        """Return an unbiased estimate of the mean over all classes, from ``values`` ``(k,)`` of the sample."""
        if self.correction is None:
            return values.mean()
        return self.sum(values) / self.correction.exp().sum()  # these sum to the number of classes


EVERY_CLASS = ClassSample()


def draw_classes(present: Tensor, classes: int, others: int | None, stream: torch.Generator) -> ClassSample:
    """Draw the classes of a step.

    Args:
        present: Labels of the step's examples, ``(n,)``: their classes are in the sample.
        classes: How many classes there are.
        others: How many of the other classes are drawn; None, or at least as many as there are: all of them.
        stream: Where from; it is not used if all classes are taken.
    """
    if others is None:
        return EVERY_CLASS
    is_absent = torch.ones(classes, dtype=torch.bool)
    is_absent[present.cpu()] = False
    rest = is_absent.nonzero()[:, 0]
    if others >= len(rest):
        return EVERY_CLASS
    drawn = rest[torch.randperm(len(rest), generator=stream)[:others]]
    is_absent[drawn] = False
    columns = (~is_absent).nonzero()[:, 0]
    correction = torch.zeros(classes)
    correction[drawn] = math.log(len(rest) / others)
    return ClassSample(columns.to(present.device), correction[columns].to(present.device))
