"""Robust learning rate: where clients disagree on a sign, the server steps back (Ozdayi, Kantarcioglu and Gel 2021).

For each number of the prompt (AAAI 2021, arXiv 2007.03767, section 4), with ``D_i`` the clients' changes:

    eta = 1 if |sum_i sign(D_i)| >= threshold n, else -1;   theta <- theta + eta sum_i (n_i / n) D_i

A backdoor moves numbers that a majority leaves alone; those are moved the other way.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor

from promptfed.aggregators.base import AGGREGATORS, Aggregator, RobustConfig
from promptfed.aggregators.deltas import difference
from promptfed.aggregators.mean import weighted_mean
from promptfed.prompt_state import PromptState
from promptfed.types import Update

log = logging.getLogger(__name__)


class RLRConfig(RobustConfig):
    """Options of the robust learning rate."""

    threshold: float = Field(
        0.2, ge=0, le=1, description="share of the clients by which one sign must outweigh the other; 0: the mean"
    )


def step_signs(changes: Tensor, threshold: float) -> Tensor:
    """Return 1 where the signs of ``changes`` ``(n, ...)`` agree by ``threshold`` or more of the n, else -1."""
    agreement = changes.sign().sum(0).abs()
    return torch.where(agreement >= round(threshold * len(changes), 9), 1.0, -1.0).double()


@AGGREGATORS.register("rlr")
class RobustLearningRate(Aggregator):
    """Mean by samples, whose step is reversed in each number on whose sign too few clients agree.

    Every client has one vote, and a change of zero is none. It guards against few clients that move what others do not
    (a backdoor), not against long updates, which ``longest`` refuses. Where clients hold unlike classes most signs
    disagree, and a high ``threshold`` undoes what they learn.
    Different from the paper: the threshold is a share of the clients that sent a tensor instead of a number of clients
    (4 of 10 there), so that clients that drop out do not reverse everything. A tensor whose step would leave float32
    stays as it is.
    """

    Config = RLRConfig
    config: RLRConfig

    def apply(
        self, shared: PromptState, updates: Sequence[Update], server: PromptState
    ) -> tuple[PromptState, PromptState]:
        changes = [difference(shared, update) for update in updates]
        steps = weighted_mean(changes, [update.samples for update in updates])
        prompt: dict[str, Tensor] = dict(shared)
        for name, step in steps.items():
            signs = step_signs(
                torch.stack([change[name] for change in changes if name in change]), self.config.threshold
            )
            value = shared[name].double() + signs * step.double()
            if value.float().isfinite().all():
                prompt[name] = value
            else:
                log.warning("'%s' is left as it was: its change, up to %.0e, is too large", name, step.abs().max())
        return PromptState(prompt), server
