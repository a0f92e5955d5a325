from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from promptfed.methods.fedpeptao.accelerated import AcceleratedMean
from promptfed.prompt_state import PromptState
from promptfed.types import Update

NAME = "prompt_embeddings"


def server() -> AcceleratedMean:
    """The golden run's: 5 steps of 0.1 each, 2 of 20 clients a round."""
    return AcceleratedMean(0.05, 0.9, clients=20, steps=lambda samples: 5, rate=lambda round: 0.1)


def updates(values: Sequence[float], samples: Sequence[int] = (8, 8)) -> list[Update]:
    return [
        Update(client, PromptState({NAME: torch.tensor([value])}), count, 1.0, 0.5)
        for client, (value, count) in enumerate(zip(values, samples, strict=True))
    ]


def test_the_golden_scalar_run() -> None:
    """Two equal clients, three rounds, by hand (every client's momentum starts from the server's)."""
    rule, shared = server(), PromptState({NAME: torch.tensor([1.0])})
    state = rule.init(shared)

    def number(name: str) -> float:
        return state[name].item()

    shared, state = rule.apply(shared, updates([0.8, 0.6]), state)
    assert shared[NAME].item() == pytest.approx(0.7, abs=1e-6)
    assert (number(f"control of client/0/{NAME}"), number(f"control of client/1/{NAME}")) == pytest.approx((0.4, 0.8))
    assert number(f"control/{NAME}") == pytest.approx(0.06)

    shared, state = rule.apply(shared, updates([0.5, 0.3]), state)
    assert (number(f"control of client/0/{NAME}"), number(f"control of client/1/{NAME}")) == pytest.approx((0.74, 1.54))
    assert number(f"control/{NAME}") == pytest.approx(0.114)
    assert number(f"momentum/{NAME}") == pytest.approx(-1.026)
    assert shared[NAME].item() == pytest.approx(0.450787, abs=1e-6)

    shared, state = rule.apply(shared, updates([0.35, 0.15]), state)
    assert number(f"momentum/{NAME}") == pytest.approx(-2.1982953, abs=1e-6)
    assert shared[NAME].item() == pytest.approx(0.3577274612, abs=1e-6)


def test_the_order_of_clients_does_not_matter() -> None:
    ends = []
    for order in ([0, 1], [1, 0]):
        rule, shared = server(), PromptState({NAME: torch.tensor([1.0])})
        state = rule.init(shared)
        for values in ([0.8, 0.6], [0.5, 0.3], [0.35, 0.15]):
            replies = updates(values, samples=(6, 2))
            shared, state = rule.apply(shared, [replies[k] for k in order], state)
        ends.append((shared[NAME].item(), state[f"momentum/{NAME}"].item()))
    assert ends[0] == pytest.approx(ends[1], abs=1e-6)


def test_a_client_that_sits_out_keeps_its_control_variate_and_the_rate_has_a_floor() -> None:
    rule, shared = server(), PromptState({NAME: torch.tensor([1.0])})
    shared, state = rule.apply(shared, updates([0.8, 0.6]), rule.init(shared))
    _, later = rule.apply(shared, updates([0.5, 0.3])[:1], state)
    assert later[f"control of client/1/{NAME}"] == state[f"control of client/1/{NAME}"]
    assert (rule.eta(1), rule.eta(3), rule.eta(1000)) == pytest.approx((0.05, 0.05 * 0.99**2, 1e-4))
