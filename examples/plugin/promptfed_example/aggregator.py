"""An aggregator: the mean, approached step by step."""

from pydantic import Field

from promptfed.aggregators.base import AGGREGATORS, AggregatorConfig
from promptfed.aggregators.mean import Mean


class SlowMeanConfig(AggregatorConfig):
    """Options: --set aggregator.step=0.9."""

    step: float = Field(0.9, gt=0, le=1, description="share of the way to the mean")


@AGGREGATORS.register("slow_mean")
class SlowMean(Mean):
    """Goes a part of the way from the shared prompt to the mean of the updates."""

    Config = SlowMeanConfig

    def apply(self, shared, updates, server):
        mean, server = super().apply(shared, updates, server)
        return shared.interpolate(mean, self.config.step), server
