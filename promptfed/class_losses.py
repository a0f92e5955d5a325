"""Losses of scaled cosines between a client's images and its class names: a softmax, or a sigmoid of each class."""

from __future__ import annotations

from collections.abc import Callable

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
    bias = sigmoid_bias(setup, data)

    def loss(labels: Tensor, logits: Tensor, rows: Tensor, sample: ClassSample = EVERY_CLASS) -> tuple[Tensor, Tensor]:
        answers = sample.positions(labels.to(logits.device)[rows])
        return sigmoid_loss(logits + bias, answers, sample), logits

    return loss


def sigmoid_loss(logits: Tensor, labels: Tensor, sample: ClassSample = EVERY_CLASS) -> Tensor:
    """Return the mean over images of ``-sum_c log sigma(z_c logit_c)``, z 1 for an image's class and -1 for others.

    Zhai et al. 2023, arXiv 2303.15343, with the classes of a client in the place of a batch's texts. Over a sample of
    the classes it is an unbiased estimate of the sum.

    Args:
        logits: ``(batch, classes)``, the bias included.
        labels: Their columns ``(batch,)``.
        sample: The classes of the columns.
    """
    signs = torch.full_like(logits, -1.0).scatter(1, labels[:, None], 1.0)
    return -sample.sum(F.logsigmoid(signs * logits)).mean()


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
