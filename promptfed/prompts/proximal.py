"""A pull back to where training starts, added to what a client minimises: FedProx's, FedAMP's and Profit's term."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from promptfed.local_training import LocalObjective, Parameters


def with_proximal_term(problem: LocalObjective, strength: float) -> LocalObjective:
    """``problem`` with ``strength / 2 * ||w - w_start||^2`` added, over all trained values together.

    The reported loss includes the pull. ``strength`` 0 gives ``problem`` back as it is.
    """
    if strength == 0:
        return problem

    def loss(parameters: Parameters, features: Sequence[Tensor], rows: Tensor) -> tuple[Tensor, Tensor]:
        value, logits = problem.loss(parameters, features, rows)
        gaps = [(w - problem.start[name].to(w.device)).square().sum() for name, w in parameters.items()]
        return value + 0.5 * strength * torch.stack(gaps).sum(), logits

    return replace(problem, loss=loss)
