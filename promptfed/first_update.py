"""What a client is sent in round 1 and what it sends back, found out without training anything."""

from __future__ import annotations

import torch
from torch import Tensor

from promptfed.aggregators.base import Aggregator
from promptfed.method import Method, Shape
from promptfed.prompt_state import PromptState


def first_update(method: Method, aggregator: Aggregator, client: int) -> tuple[PromptState, PromptState]:
    """Return the broadcast of round 1 to ``client``, and zeros of the names, shapes and kinds that it sends back."""
    server, shared = method.server_side(aggregator), method.init_shared()
    broadcast = server.broadcast(shared, server.init(shared), client)
    kinds = dict.fromkeys(method.integer_uploads, torch.int64)
    uploads = method.uploads(client, broadcast).items()
    example = {name: _zeros(shape, broadcast.get(name), kinds.get(name, torch.float32)) for name, shape in uploads}
    return broadcast, PromptState(example)


def _zeros(shape: Shape, sent: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Return zeros of an upload's ``shape``, with the type and free lengths of the tensor ``sent`` by that name.

    Without such a tensor, a free length is one.
    """
    if sent is None or len(sent.shape) != len(shape):
        return torch.zeros([1 if length is None else length for length in shape], dtype=dtype)
    lengths = [default if length is None else length for length, default in zip(shape, sent.shape, strict=True)]
    return torch.zeros(lengths, dtype=sent.dtype)
