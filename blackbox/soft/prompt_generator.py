"""The small network that clients train against a black box in Fed-BBPT and ZooPFL."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from promptfed.blackbox.search.base import Vector
from promptfed.prompt_state import PromptState
from promptfed.seeding import torch_stream

Weights = Mapping[str, Tensor]


class PromptGenerator:
    """``out = (W2 tanh(W1 x / sqrt(inputs) + b1) + b2) / sqrt(hidden)``: ``(rows, inputs)`` to ``(rows, outputs)``.

    The roots stand in the formula and not in the weights: then a change by the same amount means about as much in every
    weight, which is what SPSA does, perturbing all of them alike. ``W2`` and ``b2`` start at 0: a new generator's
    output is 0.
    """

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        self.inputs, self.hidden, self.outputs = inputs, hidden, outputs

    def start(self, seed: int, *names: str) -> PromptState:
        """Return ``W1`` ``(hidden, inputs)``, ``b1`` ``(hidden,)``, ``W2`` ``(outputs, hidden)``, ``b2``."""
        draw = torch_stream(seed, "generator", *names)
        return PromptState(
            {
                "W1": torch.randn(self.hidden, self.inputs, generator=draw),
                "b1": torch.zeros(self.hidden),
                "W2": torch.zeros(self.outputs, self.hidden),
                "b2": torch.zeros(self.outputs),
            }
        )

    def __call__(self, weights: Weights, x: Tensor) -> Tensor:
        activation = torch.tanh(x @ weights["W1"].T / math.sqrt(self.inputs) + weights["b1"])
        return (activation @ weights["W2"].T + weights["b2"]) / math.sqrt(self.hidden)


def flat(state: Weights) -> Vector:
    """Return all numbers of ``state`` ``(d,)`` float64, tensors in alphabetical order."""
    numbers: Vector = torch.cat([state[name].double().flatten() for name in sorted(state)]).numpy()
    return numbers


def shaped(point: Vector, like: Weights) -> PromptState:
    """Cut ``point`` ``(d,)`` into tensors with the names and shapes of ``like``: the inverse of ``flat``."""
    names = sorted(like)
    parts = torch.from_numpy(point).float().split([like[name].numel() for name in names])
    return PromptState({name: part.reshape(like[name].shape) for name, part in zip(names, parts, strict=True)})
