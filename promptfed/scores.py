"""What scores say: the class that fits best, or that there was no answer.

Answers in free text are of two classes, wrong and right. Their scores ``(n, 4)`` are 1 for the one and 0 for the other,
and go on with ``ANSWER_FIGURES``, which are never greater than the score of the class that is true; of equal scores the
first is the best.

Outcomes that are numbers, such as forecasts, are of two classes too: worse and better than a trivial way to get one.
Their scores are 1 for the one and 0 for the other, and go on with at least three figures that are 0 at most, the first
of them minus the loss (``FORECAST_FIGURES``, ``ALLOCATION_FIGURES``).

An example that a black box did not answer (it refused the text, or said nothing of use) has NaN in the place of its
scores. It is never taken for any class.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

NO_CLASS = -1
"""What is predicted for an example that was not answered."""


def is_answered(scores: Tensor) -> Tensor:
    """Return ``(...)`` bool: whether each row of ``scores`` ``(..., classes)`` is an answer."""
    return ~scores.isnan().any(-1)


def predicted(scores: Tensor) -> Tensor:
    """Return ``(...)`` int64, the best class of each row of ``scores`` ``(..., classes)``, ``NO_CLASS`` without one."""
    return scores.argmax(-1).where(is_answered(scores), NO_CLASS)


def as_if_uniform(scores: Tensor) -> Tensor:
    """Return ``scores`` with zeros in rows without an answer: they tell no class from another, and have no slope."""
    return scores.where(is_answered(scores)[..., None], 0.0)


ANSWER_FIGURES = ("token F1", "log-likelihood")
"""The columns behind those of the classes wrong and right: F1 of the words in 0..1, and the mean over the right
answer's tokens of their log-probabilities, at most 0."""
WRONG, RIGHT, TOKEN_F1, LOG_LIKELIHOOD = range(4)
"""Columns of the scores of an answer in free text."""


def answer_scores(is_right: Tensor, f1: Tensor, log_likelihood: Tensor) -> Tensor:
    """Return the scores ``(n, 4)`` of answers in free text.

    Args:
        is_right: ``(n,)`` bool, whether each answer is right.
        f1: ``(n,)`` F1 of the words.
        log_likelihood: ``(n,)`` mean log-probability of the right answer's tokens.
    """
    right = is_right.to(log_likelihood)
    return torch.stack([1 - right, right, f1.to(right), log_likelihood], 1)


FORECAST_FIGURES = ("-absolute error", "-squared error", "-absolute error of persistence")
"""The columns behind worse and better than persistence: means over all variables and steps of a window."""
WORSE, BETTER, LOSS = range(3)
"""Columns of the scores of a number; LOSS has minus the loss."""
ABSOLUTE, SQUARED, OF_PERSISTENCE = range(2, 5)
"""Columns of the scores of a forecast."""


def forecast_scores(forecast: Tensor, truth: Tensor, persistence: Tensor) -> Tensor:
    """Return the scores ``(n, 5)`` of forecasts; all arguments are ``(n, variables, steps)``."""
    error, other = (forecast - truth).abs(), (persistence - truth).abs().mean((1, 2))
    absolute = error.mean((1, 2))
    better = (absolute < other).to(absolute)
    return torch.stack([1 - better, better, -absolute, -(error**2).mean((1, 2)), -other], 1)


ALLOCATION_FIGURES = (
    "-(1 - reward)",
    "-(1 - reward at random)",
    "-(1 - the expert's reward)",
    "-late share",
    "-(1 - the cell's mean reward)",
)
"""The columns behind no better and better than preferred resolutions: means over all slots of an episode."""
REWARD, AT_RANDOM, OF_EXPERT, LATE, OF_CELL = range(2, 7)
"""Columns of the scores of an episode."""


def allocation_scores(
    reward: Tensor, late: Tensor, at_random: Tensor, preferred: Tensor, expert: Tensor, cells: Sequence[int]
) -> Tensor:
    """Return the scores ``(n, 7)`` of episodes.

    Args:
        reward: The mean reward of a slot, at most 1, ``(n,)``.
        late: The share of users that are late.
        at_random: The mean reward of random allocations in the same episode.
        preferred: That of what users prefer, with equal shares.
        expert: That of an expert that knows the cell.
        cells: A number for the cell of each episode.
    """
    better = (reward > preferred).to(reward)
    groups = torch.tensor(cells, dtype=torch.int64).unique(return_inverse=True)[1]
    sums = torch.zeros(int(groups.max()) + 1 if len(groups) else 0, dtype=reward.dtype).index_add(0, groups, reward)
    of_cell = (sums / groups.bincount())[groups] if len(groups) else reward
    figures = reward - 1, at_random - 1, expert - 1, -late, of_cell - 1
    return torch.stack([1 - better, better, *figures], 1)


def mean_loss(scores: Tensor, labels: Tensor, classes: int) -> float:
    """Return the mean cross-entropy of ``labels`` in ``scores`` of so many classes.

    Of answers in free text it is that of their tokens, of numbers their own loss.

    An example without an answer counts as if all classes were equal.
    """
    if scores.shape[1] == classes + len(ANSWER_FIGURES):
        return -scores[:, LOG_LIKELIHOOD].mean().item()
    if scores.shape[1] > classes + len(ANSWER_FIGURES):
        return -scores[:, LOSS].mean().item()
    return F.cross_entropy(as_if_uniform(scores).cpu(), labels).item()
