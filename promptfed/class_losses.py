"""Losses of scaled cosines between a client's images and its class names: a softmax, or a sigmoid of each class.

Images with several labels have ``grades``, 1 for each class that they show and 0 for the others. A softmax has one
right class, so such images need a loss that judges each class by itself: ``sigmoid`` or ``asymmetric``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from promptfed.class_sample import EVERY_CLASS, ClassSample
from promptfed.local_training import LocalTraining
from promptfed.setup import Setup
from promptfed.types import ClientData

ClassLoss = Callable[..., tuple[Tensor, Tensor]]
"""From a client's labels, a batch's logits ``(batch, classes)``, its rows of the client's data, and a ClassSample or
none, to (loss, logits)."""


def cross_entropy_on(
    labels: Tensor, logits: Tensor, rows: Tensor, sample: ClassSample = EVERY_CLASS
) -> tuple[Tensor, Tensor]:
    """(loss, logits) for the batch's rows of a client's ``labels``; ``logits`` are those of the ``sample``."""
    return sample.cross_entropy(logits, labels.to(logits.device)[rows]), logits


def class_loss(config: LocalTraining, setup: Setup, data: ClientData) -> ClassLoss:
    """Return the loss of one client's class logits, which are scaled cosines, that ``config`` names."""
    if config.loss == "cross_entropy":
        return cross_entropy_on
    bias, shown = sigmoid_bias(setup, data), shown_classes(config, data)

    def loss(labels: Tensor, logits: Tensor, rows: Tensor, sample: ClassSample = EVERY_CLASS) -> tuple[Tensor, Tensor]:
        if shown is None:
            answers = sample.positions(labels.to(logits.device)[rows])
            targets = torch.zeros_like(logits).scatter(1, answers[:, None], 1.0)
        else:
            targets = sample.of(shown.to(logits)[rows], 1)
        if config.loss == "sigmoid":
            return sigmoid_loss(logits + bias, targets, sample), logits
        focus = Focus(config.gamma_positive, config.gamma_negative, config.margin)
        return asymmetric_loss(logits + bias, targets, focus, sample), logits

    return loss


def shown_classes(config: LocalTraining, data: ClientData) -> Tensor | None:
    """Return which classes of its loss each of a client's training images shows, ``(n, classes)`` of 1 and 0.

    None where every image has its label alone.
    """
    grades = data.train.grades
    if grades is None:
        return None
    is_own = getattr(config, "label_space", "all") == "own"
    return (grades[:, list(data.classes)] if is_own else grades).float()


def sigmoid_loss(logits: Tensor, targets: Tensor, sample: ClassSample = EVERY_CLASS) -> Tensor:
    """Return the mean over images of ``-sum_c log sigma(z_c logit_c)``, z 1 for an image's classes and -1 for others.

    Zhai et al. 2023, arXiv 2303.15343, with the classes of a client in the place of a batch's texts. Over a sample of
    the classes it is an unbiased estimate of the sum.

    Args:
        logits: ``(batch, classes)``, the bias included.
        targets: ``(batch, classes)``, 1 for the classes of an image and 0 for others.
        sample: The classes of the columns.
    """
    return -sample.sum(F.logsigmoid((2 * targets - 1) * logits)).mean()


TINY = 1e-7
"""Keeps powers of probabilities from an infinite slope at 0."""


class Focus(NamedTuple):
    """How little an easy class counts in the asymmetric loss.

    ``positive`` and ``negative``: exponents for classes that an image shows, and for those that it does not show.
    ``margin``: the probability up to which a class that it does not show costs nothing.
    """

    positive: float = 0.0
    negative: float = 4.0
    margin: float = 0.05


def asymmetric_loss(logits: Tensor, targets: Tensor, focus: Focus, sample: ClassSample = EVERY_CLASS) -> Tensor:
    """Return the mean over images of the asymmetric loss (Ridnik et al. 2021, arXiv 2009.14119), summed over classes.

    With ``p = sigma(logit)`` a class that the image shows costs ``-(1 - p)^positive log p``, and any other one
    ``-q^negative log(1 - q)``, where ``q = max(p - margin, 0)``. With both exponents and the margin 0 it is
    ``sigmoid_loss``. Gradients pass through the weights, too.

    Args:
        logits: ``(batch, classes)``, the bias included.
        targets: ``(batch, classes)``, 1 for the classes of an image and 0 for others.
        focus: The exponents and the margin.
        sample: The classes of the columns.
    """
    probability = logits.sigmoid()
    shifted = (probability - focus.margin).clamp(0, 1 - TINY)
    absent = F.logsigmoid(-logits) if focus.margin == 0 else torch.log1p(-shifted)
    shown = (1 - probability + TINY) ** focus.positive * F.logsigmoid(logits)
    return -sample.sum(targets * shown + (1 - targets) * (shifted + TINY) ** focus.negative * absent).mean()


@torch.no_grad()
def sigmoid_bias(setup: Setup, data: ClientData) -> float:
    """Return b in ``sigma(s cos + b)``: the model's own, else one from the client's images that is frozen as well.

    A model that was trained by a softmax has none, and at b = 0 its cosines, all of which are positive, would call
    every class right. Its b is minus the mean over the client's training images of ``log sum_c exp(s cos)`` under the
    first hand-written template: a softmax subtracts just that, so zero-shot probabilities stay about what they are.
    """
    bias = setup.backbone.logit_bias
    if bias is not None or not len(data.train):
        return bias or 0.0
    template = setup.templates[0] if setup.templates else "{}"
    return -setup.model.template_scores(template, data.train, setup.classes).logsumexp(-1).mean().item()
