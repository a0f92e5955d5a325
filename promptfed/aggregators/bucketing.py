"""Bucketing: means of small random groups of updates go to another rule (Karimireddy, He and Jaggi 2022, ICLR).

Clients with unlike data look like outliers to a robust rule. The mean of ``s`` of them looks less so (arXiv 2006.09365,
Algorithm 1): the updates are dealt at random into buckets of ``s``, and the rule inside gets the buckets' means. One
malicious client spoils one bucket, so that the rule inside has a share of bad inputs up to ``s`` times as large.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Self

import torch
from pydantic import Field

from promptfed.aggregators.base import AGGREGATORS, Aggregator, RobustConfig, build_aggregator
from promptfed.aggregators.mean import weighted_mean
from promptfed.aggregators.random_rule import RandomRule, counted
from promptfed.errors import ConfigError
from promptfed.prompt_state import PromptState
from promptfed.types import Update

INNER = "inner/"
BY_CLIENT = ("bucketing", "foolsgold", "fltrust")
"""Rules that need to know whose update is whose, which a bucket does not tell, and this one."""


class BucketingConfig(RobustConfig):
    """Options of bucketing. The rule inside refuses nothing by length; ``longest`` does so before the buckets."""

    size: int = Field(2, ge=1, description="updates in a bucket; the last one may have fewer")
    rule: str = Field("geometric_median", description="aggregator that merges the buckets' means")
    options: dict[str, Any] = Field(default_factory=dict, description="options of that rule, as {byzantine: 2}")


def bucket_means(updates: Sequence[Update], size: int) -> list[Update]:
    """Return the mean of every ``size`` successive updates, with equal weights; the last may be of fewer.

    A bucket counts with the samples of all of its clients and has the lowest of their numbers.
    """
    means = []
    for start in range(0, len(updates), size):
        bucket = updates[start : start + size]
        mean = weighted_mean([update.shared for update in bucket], [1.0] * len(bucket))
        loss = sum(update.loss for update in bucket) / len(bucket)
        accuracy = sum(update.accuracy for update in bucket) / len(bucket)
        samples = sum(update.samples for update in bucket)
        means.append(Update(min(update.client for update in bucket), mean, samples, loss, accuracy))
    return sorted(means, key=lambda mean: mean.client)


@AGGREGATORS.register("bucketing")
class Bucketing(RandomRule):
    """Average random buckets of updates, equal weights, and merge the averages by another ``rule``.

    Server memory: ``merges`` (), and the rule's own under ``inner/``. Rules that send each client something else, or
    that know clients by number, cannot be inside.
    Different from the paper: clients keep no momentum, and a tensor is averaged over those of a bucket that sent it.
    """

    Config = BucketingConfig
    config: BucketingConfig

    def __init__(self, config: BucketingConfig) -> None:
        super().__init__(config)
        self.inner = build_aggregator(config.rule, config.options)
        if config.rule in BY_CLIENT or type(self.inner).broadcast is not Aggregator.broadcast:
            raise ConfigError(
                f"bucketing cannot merge by '{config.rule}', which must know whose update is whose: "
                "use --set aggregator.rule=median, krum or geometric_median"
            )

    def seeded(self, seed: int) -> Self:
        other = super().seeded(seed)
        other.inner = self.inner.seeded(seed)
        return other

    def init(self, shared: PromptState) -> PromptState:
        inner = self.inner.init(shared)
        return PromptState({**super().init(shared), **{INNER + name: tensor for name, tensor in inner.items()}})

    def check(self, clients: int) -> None:
        self.inner.check(math.ceil(clients / self.config.size))

    def apply(
        self, shared: PromptState, updates: Sequence[Update], server: PromptState
    ) -> tuple[PromptState, PromptState]:
        merge, by_client = self.next_merge(server), sorted(updates, key=lambda update: update.client)
        order = torch.randperm(len(updates), generator=self.stream(merge)).tolist()
        buckets = bucket_means([by_client[i] for i in order], self.config.size)
        memory = {name.removeprefix(INNER): tensor for name, tensor in server.items() if name.startswith(INNER)}
        shared, inner = self.inner.apply(shared, buckets, PromptState(memory))
        return shared, PromptState({**counted(merge), **{INNER + name: tensor for name, tensor in inner.items()}})
