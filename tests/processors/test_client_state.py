"""Who sees what of a client's personal prompt."""

from __future__ import annotations

import torch

from promptfed.processors.client_state import MEMORY, PREFIX, joined, prompt_of, states_of, trained_of
from promptfed.prompt_state import PromptState


def test_evaluation_sees_the_prompt_and_training_what_the_method_remembers() -> None:
    prompt = PromptState({"ctx": torch.ones(2)})
    memory = {f"{MEMORY}rows": torch.tensor([3, 1])}
    personal = joined(PromptState({**prompt, **memory}), {"noise": PromptState({"sum": torch.zeros(1)})})
    assert f"{PREFIX}noise.sum" in personal
    assert prompt_of(personal) == prompt
    assert trained_of(personal) == PromptState({**prompt, **memory})
    assert list(states_of(personal)) == ["noise"]
    assert prompt_of(prompt) is prompt
    assert trained_of(prompt) is prompt
