"""Norm clipping: no client moves the prompt further than the median client (after Sun et al. 2019)."""

from __future__ import annotations

from collections.abc import Sequence

from promptfed.aggregators.base import AGGREGATORS, Aggregator, RobustConfig
from promptfed.aggregators.coordinatewise import middle_mean, most
from promptfed.aggregators.deltas import difference, difference_rows
from promptfed.aggregators.mean import weighted_mean
from promptfed.prompt_state import PromptState
from promptfed.types import Update


def clipped_mean(shared: PromptState, updates: Sequence[Update], limit: float) -> PromptState:
    """Return the mean by samples of ``updates`` whose changes are shortened to ``limit`` where they are longer."""
    lengths = difference_rows(shared, updates).norm(dim=1)
    clipped = [
        {
            name: shared[name].double() + change * (limit / length if length > limit else 1.0)
            for name, change in difference(shared, update).items()
        }
        for update, length in zip(updates, lengths.tolist(), strict=True)
    ]
    return PromptState({**shared, **weighted_mean(clipped, [u.samples for u in updates])})


@AGGREGATORS.register("norm_clip")
class NormClip(Aggregator):
    """Shorten each update's change to the median length of the round's changes, then take the mean by samples.

    The paper uses a fixed limit; the median needs none and follows the changes as they get shorter.
    """

    Config = RobustConfig

    def apply(
        self, shared: PromptState, updates: Sequence[Update], server: PromptState
    ) -> tuple[PromptState, PromptState]:
        lengths = difference_rows(shared, updates).norm(dim=1)
        limit = middle_mean(lengths, most(len(lengths))).item()
        return clipped_mean(shared, updates, limit), server
