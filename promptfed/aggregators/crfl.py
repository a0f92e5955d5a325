"""CRFL: the merged prompt is clipped, and noise is added to it, in every round (Xie, Chen, Chen and Li 2021, ICML).

Training of arXiv 2106.08283, Algorithm 1, with ``theta'`` the mean by samples:

    theta <- theta' / max(1, |theta'| / rho_t) + N(0, sigma^2),   rho_t = bound + growth t

A backdoor of bounded length drowns in the noise. The noise comes from the run's seed, which everybody may know: it is
there for robustness and hides nothing about anybody. It is no differential privacy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from promptfed.aggregators.base import AGGREGATORS, AggregatorConfig
from promptfed.aggregators.mean import mean_by_samples
from promptfed.aggregators.random_rule import RandomRule, counted
from promptfed.prompt_state import PromptState
from promptfed.types import Update

START = "start/"


class CRFLConfig(AggregatorConfig):
    """Options of CRFL. ``bound``, ``growth`` and ``sigma`` are in the unit of the prompt."""

    bound: float = Field(2.0, gt=0, le=1e9, allow_inf_nan=False, description="largest length in round 0: rho_0")
    growth: float = Field(0.1, ge=0, le=1e9, allow_inf_nan=False, description="by how much that grows in a round")
    sigma: float = Field(
        0.001, ge=0, le=1e9, allow_inf_nan=False, description="standard deviation of the noise of a round"
    )
    center: Literal["start", "zero"] = Field(
        "start", description="from where the length is measured: the first prompt, or zero as in the paper"
    )
    rounds: int | None = Field(
        None, ge=1, description="rounds of the run, after the last of which no noise is added; by default it always is"
    )


@AGGREGATORS.register("crfl")
class CRFL(RandomRule):
    """Mean by samples, then clip the prompt's length to a growing bound and add Gaussian noise.

    Server memory: ``merges`` (), the number of rounds merged, and ``start/NAME``, the first prompt. A tensor that
    nobody sent in a round stays as it is and does not count in the length.
    Different from the paper: lengths are measured from the first prompt, which is a sentence and not zero, unless
    ``center=zero``; the paper's sigma is 0.01, for whole image models. The rule cannot see which round is the last:
    ``rounds`` tells it, and rounds without a merge do not count. Predictions are not smoothed over noisy copies of the
    prompt, so there is no certificate. One client alone (the local-only baseline) gets the noise too.
    """

    Config = CRFLConfig
    config: CRFLConfig
    needs = "sum"

    def init(self, shared: PromptState) -> PromptState:
        start = {START + name: tensor for name, tensor in shared.items()} if self.config.center == "start" else {}
        return PromptState({**super().init(shared), **start})

    def apply(
        self, shared: PromptState, updates: Sequence[Update], server: PromptState
    ) -> tuple[PromptState, PromptState]:
        config, merge, mean = self.config, self.next_merge(server), mean_by_samples(shared, updates)
        sent = sorted({name for update in updates for name in update.shared})
        origins = {name: server[START + name].double() if config.center == "start" else 0.0 for name in sent}
        offsets = clipped({name: mean[name].double() - origins[name] for name in sent}, self.bound(merge))
        if config.sigma and merge != config.rounds:
            stream = self.stream(merge)
            for name, offset in offsets.items():
                offsets[name] = offset + config.sigma * torch.randn(offset.shape, generator=stream, dtype=torch.float64)
        moved = {name: origins[name] + offset for name, offset in offsets.items()}
        memory = {name: tensor for name, tensor in server.items() if name.startswith(START)}
        return PromptState({**shared, **moved}), PromptState({**memory, **counted(merge)})

    def bound(self, merge: int) -> float:
        """Return ``rho_t`` of the ``merge``-th round."""
        return self.config.bound + self.config.growth * merge


def clipped(tensors: dict[str, Tensor], bound: float) -> dict[str, Tensor]:
    """Return ``tensors``, shortened to a length of ``bound`` over all of them together if they are longer."""
    length = torch.stack([torch.zeros((), dtype=torch.float64), *(t.norm() for t in tensors.values())]).norm().item()
    factor = bound / length if length > bound else 1.0
    return {name: tensor * factor for name, tensor in tensors.items()}
