"""From an engine's scores to probabilities: two numbers, fitted to the requests that its owner has judged."""

from __future__ import annotations

import numpy as np

STEPS = 50


def fit_calibration(scores: np.ndarray, relevant: np.ndarray, ridge: float = 1.0) -> tuple[float, float]:
    """Return ``(a, c)`` of logistic regression, ``logit P(relevant) = a score + c``.

    Newton's steps are halved until the loss falls. A quadratic penalty on ``a``, of scores with variance 1, keeps it
    finite where scores tell all apart. ``a`` is never negative: a greater score does not make a document worse.

    Args:
        scores: Of the documents that the engine lists for the judged requests, ``(n,)``.
        relevant: 1 for a document that answers, else 0.
        ridge: The weight of the penalty.
    """
    scores, relevant = np.asarray(scores, dtype=float), np.asarray(relevant, dtype=float)
    rate = (relevant.sum() + 0.5) / (len(relevant) + 1.0)
    deviation = float(scores.std()) if len(scores) else 0.0
    if deviation == 0:
        return 0.0, float(np.log(rate / (1 - rate)))
    mean = float(scores.mean())
    rows = np.stack([(scores - mean) / deviation, np.ones(len(scores))], 1)
    penalty = np.diag([ridge, 1e-3])
    values = np.array([0.0, np.log(rate / (1 - rate))])

    def loss(at: np.ndarray) -> float:
        logits = rows @ at
        return float((np.logaddexp(0, logits) - relevant * logits).sum() + at @ penalty @ at / 2)

    for _ in range(STEPS):
        chance = 0.5 * (1 + np.tanh(rows @ values / 2))
        slope = rows.T @ (chance - relevant) + penalty @ values
        curvature = rows.T @ (rows * (chance * (1 - chance))[:, None]) + penalty
        step = np.linalg.solve(curvature, slope)
        size = 1.0
        while size > 1e-6 and loss(values - size * step) > loss(values):
            size /= 2
        values = values - size * step
        if float(np.abs(step).max()) < 1e-10:
            break
    if values[0] <= 0:
        return 0.0, float(np.log(rate / (1 - rate)))
    return float(values[0] / deviation), float(values[1] - values[0] * mean / deviation)
