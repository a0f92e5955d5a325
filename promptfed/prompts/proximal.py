"""Proximal term towards the start of training: FedProx's, FedAMP's and Profit's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from promptfed.class_sample import ClassSample
from promptfed.local_training import LocalObjective, Parameters


def with_proximal_term(problem: LocalObjective, strength: float) -> LocalObjective:
    """Return ``problem`` with ``strength / 2 * ||w - w_start||^2`` added, over all trained values together.

    The reported loss includes the term. With ``strength`` 0, ``problem`` is returned as it is.
    """
    if strength == 0:
        return problem

    def pull(parameters: Parameters, features: Sequence[Tensor], sample: ClassSample) -> Tensor:
        gaps = [(w - problem.start[name].to(w.device)).square().sum() for name, w in parameters.items()]
        return 0.5 * strength * torch.stack(gaps).sum()

    return replace(problem, penalties=(*problem.penalties, pull))
