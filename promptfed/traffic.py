"""What a method sends, found out from its first round without training anything."""

from __future__ import annotations

from dataclasses import dataclass

from promptfed.experiment import Experiment
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
    return Traffic(sent.nbytes, PromptState({name: sent[name] for name in asked}).nbytes)
