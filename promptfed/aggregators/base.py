"""What every way of merging prompts looks like to the federation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from pydantic import BaseModel, ConfigDict

from promptfed.prompts import PromptState
from promptfed.registry import Registry
from promptfed.types import NO_PROMPT, Update


class AggregatorConfig(BaseModel):
    """Base of every aggregator's options: frozen, and unknown names are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Aggregator(ABC):
    """Merges updates. Knows no method and no engine; its own state (momentum, ...) is a PromptState too."""

    Config: ClassVar[type[AggregatorConfig]] = AggregatorConfig

    def __init__(self, config: AggregatorConfig) -> None:
        self.config = config

    def init(self, shared: PromptState) -> PromptState:
        """Server state before round 1; empty for aggregators that remember nothing."""
        return NO_PROMPT

    @abstractmethod
    def apply(
        self, shared: PromptState, updates: Sequence[Update], server: PromptState
    ) -> tuple[PromptState, PromptState]:
        """``updates`` come sorted by client id, at least one; returns the new shared prompt and server state."""


AGGREGATORS: Registry[type[Aggregator]] = Registry("aggregator", "promptfed.aggregators")
