"""The interface of aggregators: how the server merges a round's updates."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from promptfed.config import validate
from promptfed.prompt_state import PromptState
from promptfed.registry import Registry
from promptfed.types import NO_PROMPT, Update

Needs = Literal["each", "sum"]
"""What of a round's changes a rule works on: every one of them, or no more than their sum."""
PEER = "peer/"
"""Tensors under this name are other clients' prompts, which a client scores in training; nobody deploys them."""


def deployed(sent: PromptState) -> PromptState:
    """Return what a client deploys of what it is ``sent``."""
    if not any(name.startswith(PEER) for name in sent):
        return sent
    return PromptState({name: tensor for name, tensor in sent.items() if not name.startswith(PEER)})


class AggregatorConfig(BaseModel):
    """Base of every aggregator's options: frozen, and unknown names are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    longest: float | None = Field(
        default=None,
        ge=1,
        description="refuse updates that change more than so many times the round's median change [10^6]",
    )


class RobustConfig(AggregatorConfig):
    """Options of a rule that withstands malicious clients; it refuses updates that are far too long."""

    longest: float | None = Field(
        default=5.0, ge=1, description="refuse updates that change more than so many times the round's median change"
    )


class Aggregator(ABC):
    """Rule that merges updates. Knows no method and no engine; its own state (momentum, ...) is a PromptState too."""

    Config: ClassVar[type[AggregatorConfig]] = AggregatorConfig
    needs: Needs = "each"
    """Whether the rule must see each update, or the (weighted) sum of changes is enough for it."""

    def __init__(self, config: AggregatorConfig) -> None:
        self.config = config

    def __repr__(self) -> str:
        return f"<aggregator {type(self).__name__}: {self.config!r}>"

    def init(self, shared: PromptState) -> PromptState:
        """Return the server state before round 1; empty for aggregators that keep none."""
        return NO_PROMPT

    @property
    def sends_peers(self) -> bool:
        """Whether it sends clients the prompts of others to be scored, under names that begin with PEER."""
        return False

    def check(self, clients: int) -> None:  # noqa: B027 (most have nothing to check)
        """Raise ConfigError if the options cannot work with ``clients`` updates a round."""

    def seeded(self, seed: int) -> Aggregator:
        """Return this rule with its random draws from the streams of ``seed``; itself, if it draws nothing."""
        return self

    def alone(self) -> Aggregator:
        """Return the rule of a federation of one client, the local-only baseline; by default this one."""
        return self

    def broadcast(self, shared: PromptState, server: PromptState, client: int | None) -> PromptState:
        """Return what one client is sent; by default ``shared``, for all.

        Args:
            shared: The prompt after the last round.
            server: The aggregator's own state.
            client: The client's number; None for a client that never took part.
        """
        return shared

    @abstractmethod
    def apply(
        self, shared: PromptState, updates: Sequence[Update], server: PromptState
    ) -> tuple[PromptState, PromptState]:
        """Merge a round's updates.

        Args:
            shared: The prompt before the round.
            updates: At least one, sorted by client id, checked to be finite and to have the shapes that were sent.
                They may hold only some of the tensors of ``shared`` if the method says so (``Method.uploads``).
            server: The aggregator's own state.

        Returns:
            The new shared prompt and server state.
        """


class AggregatorWrapper(Aggregator):
    """Aggregator that delegates to ``inner``; a method's own rule is a subclass that overrides a part of it."""

    sees_each: ClassVar[bool] = True
    """Whether the part of its own must see each update; False: it works on a mean as on the updates behind it."""

    def __init__(self, inner: Aggregator) -> None:
        super().__init__(inner.config)
        self.inner = inner
        self.needs = "each" if self.sees_each else inner.needs

    @property
    def sends_peers(self) -> bool:
        return self.inner.sends_peers

    def init(self, shared: PromptState) -> PromptState:
        return self.inner.init(shared)

    def check(self, clients: int) -> None:
        self.inner.check(clients)

    def broadcast(self, shared: PromptState, server: PromptState, client: int | None) -> PromptState:
        return self.inner.broadcast(shared, server, client)

    def apply(
        self, shared: PromptState, updates: Sequence[Update], server: PromptState
    ) -> tuple[PromptState, PromptState]:
        return self.inner.apply(shared, updates, server)


AGGREGATORS: Registry[type[Aggregator]] = Registry("aggregator", "promptfed.aggregators", group="promptfed.aggregators")


def build_aggregator(name: str, options: Mapping[str, Any]) -> Aggregator:
    """Return the aggregator called ``name``.

    Raises:
        ConfigError: The name or an option is unknown, or an option has a bad value.
    """
    kind = AGGREGATORS[name]
    return kind(validate(kind.Config, options, "aggregator option"))
