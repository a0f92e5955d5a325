"""What a model's word head would take, without the head itself: it is the dearest layer of all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


@contextmanager
def head_input(model: Any, places: Tensor | None) -> Iterator[list[Tensor]]:
    """Yield a list that receives what the word head of ``model`` would take while it reads.

    The head itself is given no position at all, so that it costs nothing.

    Args:
        model: A model of transformers with a word head.
        places: Positions ``(rows, k)``; None: all.
    """
    head = model.get_output_embeddings()
    states: list[Tensor] = []

    def select(module: Any, inputs: Any, output: Any) -> Any:
        assert places is not None
        output.last_hidden_state = gathered(output.last_hidden_state, places)
        return output

    def capture(module: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        states.append(inputs[0])
        return (inputs[0][:, :0],)

    handles = [head.register_forward_pre_hook(capture)]
    if places is not None:
        handles.append(model.base_model.register_forward_hook(select))
    try:
        yield states
    finally:
        for handle in handles:
            handle.remove()


def gathered(states: Tensor, places: Tensor) -> Tensor:
    """Return the states at ``places`` ``(rows, k)``: ``(rows, k, width)``."""
    return states.gather(1, places[..., None].expand(-1, -1, states.shape[-1]))


def softened(logits: Tensor, config: Any) -> Tensor:
    """Return ``logits`` after what a model of this ``config`` does to them behind its head: caps and scales."""
    text = config.get_text_config()
    if multiplier := getattr(text, "logit_scale", None):  # Cohere
        logits = logits * multiplier
    if divisor := getattr(text, "logits_scaling", None):  # Granite
        logits = logits / divisor
    if cap := getattr(text, "final_logit_softcapping", None):  # Gemma 2
        logits = torch.tanh(logits / cap) * cap
    return logits
