"""Keys and values that stand before those of a text in every layer: as one tensor, as transformers' cache, of a text.

The tensor is PEFT's ``(n, layers * 2 * heads * head_size)``: token, layer, (key, value), head, head size. Keys are as
they lie in the cache: a model that turns keys by their position has done so already, and a text that follows stands at
positions from n on.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from promptfed.errors import BackboneError

Layers = tuple[tuple[Tensor, Tensor], ...]
"""Keys and values of each layer, each ``(rows, heads, n, head_size)``."""


def by_layer(prefix: Tensor, layers: int, heads: int) -> Layers:
    """Return a prefix ``(n, layers * 2 * heads * head_size)`` layer by layer; gradients flow through."""
    states = prefix.view(len(prefix), layers, 2, heads, -1).permute(1, 2, 3, 0, 4)[:, :, None]
    return tuple((layer[0], layer[1]) for layer in states)


@contextmanager
def behind_prefix(base: Any, layers: Layers, rows: int) -> Iterator[None]:
    """Have a bare model of transformers read its next ``rows`` texts behind the same keys and values.

    A model with a head does not always pass a cache on to the bare model in it, so that is given it by a hook. The
    attention mask must have room for the prefix.
    """
    from transformers import DynamicCache

    cache = DynamicCache()
    for number, (keys, values) in enumerate(layers):
        cache.update(keys.expand(rows, -1, -1, -1), values.expand(rows, -1, -1, -1), number)

    def hook(module: Any, inputs: tuple[Any, ...], more: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return inputs, {**more, cache_name(base): cache, "use_cache": True}

    handle = base.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def cache_name(model: Any) -> str:
    """Return what ``model.forward`` and its output call a cache: transformers renamed it."""
    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"


def cache_layers(cache: Any) -> Layers:
    """Return the keys and values in a cache; earlier versions of transformers kept them in two lists."""
    if hasattr(cache, "layers"):
        return tuple((layer.keys, layer.values) for layer in cache.layers)
    return tuple(zip(cache.key_cache, cache.value_cache, strict=True))


@torch.no_grad()
def keys_and_values(base: Any, ids: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
    """Return what the layers of a bare model (``model.base_model``) keep of a text, ``(n, layers * 2 * kv_width)``.

    Before a causal model's text they do just what the text itself would do. A bidirectional model's text would also
    have read what follows it; here it has not.

    Args:
        base: A causal model or an encoder of transformers, without a head.
        ids: Tokens of the text, one or more.
        device: Where the model is.

    Raises:
        BackboneError: The layers of the model keep something else, or keep it in different sizes.
    """
    from transformers import DynamicCache

    cache = DynamicCache()
    if not getattr(base.config, "is_encoder_decoder", False):
        base(input_ids=torch.tensor([list(ids)], device=device), **{cache_name(base): cache, "use_cache": True})
    layers = cache_layers(cache)
    shapes = {tuple(states.shape) for pair in layers for states in pair}
    if len(shapes) != 1 or next(iter(shapes))[2] != len(ids):
        raise BackboneError(
            f"a model of type '{base.config.model_type}' takes no prefix: its layers do not all keep keys and values "
            "of every token in one size; use a soft prompt (--method fedprompt)"
        )
    states = torch.stack([torch.stack(pair) for pair in layers])[:, :, 0]  # layer, key or value, head, token, size
    return states.permute(3, 0, 1, 2, 4).reshape(len(ids), -1)
