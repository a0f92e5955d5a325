"""Updates from bare numbers, and aggregators by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch

from promptfed.aggregators.base import Aggregator, build_aggregator
from promptfed.prompt_state import PromptState
from promptfed.types import Update


@pytest.fixture
def state() -> Callable[..., PromptState]:
    """``state(1, 2)``: the prompt ``{"ctx": [1, 2]}``."""
    return lambda *values: PromptState({"ctx": torch.tensor(values, dtype=torch.float64)})


@pytest.fixture
def send() -> Callable[..., Update]:
    """``send(client, prompt, samples)``: an update."""
    return lambda client, prompt, samples=1: Update(client, prompt, samples, 0.0, 0.0)


@pytest.fixture
def merge() -> Callable[..., PromptState]:
    """``merge(name, shared, prompts, samples, **options)``: the shared prompt after one round from ``shared``."""

    def run(
        name: str, shared: PromptState, prompts: Sequence[PromptState], samples: Sequence[int] = (), **options: object
    ) -> PromptState:
        counts = samples or [1] * len(prompts)
        updates = [Update(i, p, n, 0.0, 0.0) for i, (p, n) in enumerate(zip(prompts, counts, strict=True))]
        server: Aggregator = build_aggregator(name, options)
        return server.apply(shared, updates, server.init(shared))[0]

    return run


@pytest.fixture
def crowd() -> tuple[PromptState, list[PromptState], list[int]]:
    """A shared prompt of two tensors, seven prompts near it, and their numbers of samples."""
    draw = torch.Generator().manual_seed(0)
    shared = PromptState({"a": torch.randn(3, 4, generator=draw), "b": torch.randn(5, generator=draw)})
    prompts = [shared.map(lambda t: t + 0.1 * torch.randn(t.shape, generator=draw)) for _ in range(7)]
    return shared, prompts, [3, 1, 4, 1, 5, 9, 2]
