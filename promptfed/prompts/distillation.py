"""Distillation between two predictors of the same classes (Hinton et al. 2015, arXiv 1503.02531)."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def distillation(scores: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return the mean over rows of ``t^2 KL(softmax(teacher / t) || softmax(scores / t))``.

    The factor t^2 keeps gradients of one size at any temperature. No gradient reaches the teacher.

    Args:
        scores: ``(n, classes)``.
        teacher: ``(n, classes)``.
        temperature: t.
    """
    targets = F.log_softmax(teacher.detach() / temperature, dim=-1)
    shares = F.log_softmax(scores / temperature, dim=-1)
    return temperature**2 * F.kl_div(shares, targets, reduction="batchmean", log_target=True)
