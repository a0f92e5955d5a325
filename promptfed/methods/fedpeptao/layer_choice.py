"""The server's side of choosing layers: clients' scores are averaged, and their prefixes cut to the best layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from promptfed.aggregators.base import Aggregator, AggregatorWrapper
from promptfed.aggregators.mean import weighted_mean
from promptfed.inserts.prefix import PREFIX
from promptfed.methods.fedpeptao.layer_score import chosen_layers
from promptfed.methods.fedpeptao.partial_prefix import LAYERS
from promptfed.prompt_state import PromptState
from promptfed.types import Update

SCORES = "layer_scores"
"""Name of a client's scores ``(layers - 1,)``: of all layers but the last."""


class LayerChoice(AggregatorWrapper):
    """Aggregator that merges the columns of chosen layers by ``inner``, and says in ``layers`` which they are.

    In a round before they are chosen, the updates have the scores and the prefix of all layers.

    Args:
        inner: The rule that merges.
        count: Layers to choose.
        columns: From layers to their columns of the prefix.
    """

    def __init__(self, inner: Aggregator, count: int, columns: Callable[[Sequence[int]], Tensor]) -> None:
        super().__init__(inner)
        self.count, self.columns = count, columns

    def init(self, shared: PromptState) -> PromptState:
        return self.inner.init(without(shared, LAYERS))

    def apply(
        self, shared: PromptState, updates: Sequence[Update], server: PromptState
    ) -> tuple[PromptState, PromptState]:
        layers = shared.get(LAYERS)
        prompt = without(shared, LAYERS)
        if layers is None:
            scores = weighted_mean([{SCORES: u.shared[SCORES]} for u in updates], [u.samples for u in updates])[SCORES]
            layers = torch.tensor(chosen_layers(scores.tolist(), self.count))
            prompt = self._cut(prompt, layers)
            updates = [replace(u, shared=self._cut(without(u.shared, SCORES), layers)) for u in updates]
            server = self.inner.init(prompt)  # its memory has the shapes of what is merged
        prompt, server = self.inner.apply(prompt, updates, server)
        return PromptState({**prompt, LAYERS: layers}), server

    def _cut(self, state: PromptState, layers: Tensor) -> PromptState:
        return PromptState({**state, PREFIX: state[PREFIX][:, self.columns(layers.tolist())]})


def without(state: PromptState, name: str) -> PromptState:
    """Return ``state`` without the tensor ``name``."""
    return PromptState({key: tensor for key, tensor in state.items() if key != name})
