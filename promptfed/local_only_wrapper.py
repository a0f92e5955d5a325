"""The local-only baseline of a method on a language model or a black box: the same method, without federation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from promptfed.aggregators.base import Aggregator
from promptfed.kept_text import kept_of
from promptfed.method import Method
from promptfed.prompt_state import PromptState, tensors_under
from promptfed.types import NO_PROMPT, Broadcast, ClientData, ClientPrompt, Split, Update

PARTS = ("shared", "server", "personal")


class LocalOnlyWrapper(Method):
    """Federation of one inside each client: ``inner`` trains, ``aggregator`` merges its update, nothing is sent.

    Personal: the whole state of that small federation. A client that never took part has ``inner``'s start.
    """

    name: ClassVar[str] = "local-only"
    paper: ClassVar[str] = "the method itself, without a federation"

    def __init__(self, inner: Method, aggregator: Aggregator) -> None:
        super().__init__(inner.config, inner.setup)
        self.inner = inner
        self.rule = inner.server_side(aggregator.alone().seeded(inner.setup.seed))
        self.access = inner.access  # type: ignore[misc] # this instance's

    @property
    def rounds(self) -> int:
        return self.inner.rounds

    def participants(self, round: int, drawn: Sequence[int], clients: Sequence[int]) -> Sequence[int]:
        """Return ``inner``'s participants, so that clients work as often as in its federation."""
        return self.inner.participants(round, drawn, clients)

    def init_personal(self, client: int) -> PromptState:
        shared = self.inner.init_shared()
        return _packed(shared, self.rule.init(shared), self.inner.init_personal(client))

    def check_feasible(self, clients: Sequence[ClientData]) -> None:
        self.inner.check_feasible(clients)

    def train(self, broadcast: Broadcast, data: ClientData, personal: PromptState) -> tuple[Update, PromptState]:
        shared, server, inner_personal = _unpacked(personal)
        inner_broadcast = Broadcast(broadcast.round, self.rule.broadcast(shared, server, data.client))
        update, inner_personal = self.inner.train(inner_broadcast, data, inner_personal)
        new_shared, server = self.rule.apply(shared, [update], server)
        nothing = Update(data.client, NO_PROMPT, update.samples, update.loss, update.accuracy)
        return nothing, _packed(new_shared, server, inner_personal)

    def client_logits(self, prompt: ClientPrompt, classes: Sequence[str], split: Split) -> Tensor:
        if kept_of(prompt) is None:
            return super().client_logits(prompt, classes, split)
        return self.inner.client_logits(prompt, classes, split)

    def logits(self, shared: PromptState, personal: PromptState, classes: Sequence[str], split: Split) -> Tensor:
        if not len(personal):
            return self.inner.logits(self.inner.init_shared(), NO_PROMPT, classes, split)
        local, server, inner_personal = _unpacked(personal)
        return self.inner.logits(self.rule.broadcast(local, server, None), inner_personal, classes, split)


def _packed(*states: PromptState) -> PromptState:
    tensors = {f"{part}/{name}": t for part, state in zip(PARTS, states, strict=True) for name, t in state.items()}
    return PromptState(tensors)


def _unpacked(state: PromptState) -> tuple[PromptState, PromptState, PromptState]:
    shared, server, personal = (PromptState(tensors_under(state, f"{part}/")) for part in PARTS)
    return shared, server, personal
