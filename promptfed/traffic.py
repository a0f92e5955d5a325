"""What a method sends, found out from its first round without training anything."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from promptfed.experiment import Experiment
from promptfed.methods.base import Shape
from promptfed.prompts import PromptState


@dataclass(frozen=True)
class Traffic:
    """Bytes of one client in the first round, as serialised. A broadcast can grow later (experts of other clients)."""

    down: int
    up: int


def first_round(experiment: Experiment, client: int = 0) -> Traffic:
    """What ``client`` is sent in round 1, and what it must send back."""
    method = experiment.method()
    server = method.server_side(experiment.aggregator())
    shared = method.init_shared()
    sent = server.broadcast(shared, server.init(shared), client)
    asked = method.uploads(client, sent)
    return Traffic(
        sent.nbytes, PromptState({name: _like(sent.get(name), shape) for name, shape in asked.items()}).nbytes
    )


def _like(sent: Tensor | None, shape: Shape) -> Tensor:
    """A tensor of that shape; a free length is that of what was sent, one where nothing of the name was."""
    if sent is not None and None in shape:
        return sent
    return torch.zeros([1 if length is None else length for length in shape])
