"""Norm bound: no client moves the prompt further than a fixed length (Sun et al. 2019, arXiv 1911.07963)."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from promptfed.aggregators.base import AGGREGATORS, Aggregator, AggregatorConfig
from promptfed.aggregators.norm_clip import clipped_mean
from promptfed.prompt_state import PromptState
from promptfed.types import Update


class NormBoundConfig(AggregatorConfig):
    """Options of the norm bound. ``bound`` is in the unit of the prompt."""

    bound: float = Field(
        1.0, gt=0, le=1e9, allow_inf_nan=False, description="largest L2 norm of a client's change, over all tensors"
    )


@AGGREGATORS.register("norm_bound")
class NormBound(Aggregator):
    """Shorten each update's change to the fixed length ``bound``, then take the mean by samples.

    ``theta <- theta + sum_i (n_i / n) D_i min(1, C / |D_i|)``, the norm over all tensors of an update together. Clients
    can do the shortening themselves (the processor ``clip``), and the server needs no more than the sum then.
    Different from the paper: its small noise is left to ``crfl``; weights are samples.
    """

    Config = NormBoundConfig
    config: NormBoundConfig
    needs = "sum"

    def apply(
        self, shared: PromptState, updates: Sequence[Update], server: PromptState
    ) -> tuple[PromptState, PromptState]:
        return clipped_mean(shared, updates, self.config.bound), server
