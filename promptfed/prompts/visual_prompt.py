"""Image features under a visual prompt, for all methods that prompt the image tower.

Such features change with the prompt, so the feature cache cannot hold them. Training sends gradients through
``prompted_images``; evaluation reads ``visual_features``, which encodes a split once for each prompt.
"""

from __future__ import annotations

from collections import OrderedDict
from weakref import ReferenceType, WeakKeyDictionary, ref

import torch
from torch import Tensor

from promptfed.backbones.base import PromptedImages
from promptfed.backbones.features import FeatureStore
from promptfed.prompt_state import PromptState
from promptfed.seeding import torch_stream
from promptfed.setup import Setup
from promptfed.types import Split

KEPT_BYTES = 200_000_000
"""Features under a visual prompt that stay in memory, for each feature store; the longest unused go first."""

_Key = tuple[ReferenceType[Split], str, int]
_Seen = OrderedDict[_Key, PromptedImages]
_seen: WeakKeyDictionary[FeatureStore, _Seen] = WeakKeyDictionary()


def start_visual(setup: Setup, n: int, *purpose: str | int) -> Tensor:
    """Return ``n`` visual prompt tokens ``(n, vision_dim)`` to start from, N(0, 0.02).

    They are drawn from the stream (seed, "visual prompt", *purpose).
    """
    noise = torch_stream(setup.seed, "visual prompt", *purpose)
    return 0.02 * torch.randn(n, setup.backbone.vision_dim, generator=noise)


def prompted_images(
    setup: Setup, split: Split, rows: Tensor, ctx: Tensor, deep: Tensor | None = None
) -> PromptedImages:
    """Encode some ``rows`` of ``split`` under a visual prompt; differentiable in ``ctx`` and ``deep``.

    Args:
        setup: The run's agreement and model.
        split: The images.
        rows: Which of them.
        ctx: Visual tokens at the input, ``(n, vision_dim)``.
        deep: Those at the inputs of the next blocks, ``(depth - 1, n, vision_dim)``.
    """
    return setup.backbone.encode_prompted_images(setup.features.pixels(split, rows), ctx, deep)


def visual_features(
    setup: Setup, split: Split, ctx: Tensor, deep: Tensor | None = None, batch: int = 64
) -> PromptedImages:
    """Encode all images of ``split`` under a fixed visual prompt; not normalised, no gradient.

    The features stay in memory (up to KEPT_BYTES) by split and by the prompt's values, because the same images are
    scored with several class lists. Encoding counts as image calls; reading from memory does not.

    Args:
        setup: The run's agreement and model.
        split: The images.
        ctx: Visual tokens at the input, ``(n, vision_dim)``.
        deep: Those at the inputs of the next blocks, ``(depth - 1, n, vision_dim)``.
        batch: Images encoded at a time.
    """
    prompt = PromptState({"ctx": ctx} if deep is None else {"ctx": ctx, "deep": deep})
    key = (ref(split), prompt.sha256(), batch)
    cache = _seen.setdefault(setup.features, OrderedDict())
    if key not in cache:
        # The caller may be in inference mode, whose tensors can never be trained on; these are kept for all callers.
        with torch.inference_mode(False), torch.no_grad():
            cache[key] = _encoded(setup, split, ctx, deep, batch)
        size = sum(_size(entry) for entry in cache.values())
        while size > KEPT_BYTES and len(cache) > 1:
            size -= _size(cache.popitem(last=False)[1])
    cache.move_to_end(key)
    return cache[key]


def _encoded(setup: Setup, split: Split, ctx: Tensor, deep: Tensor | None, batch: int) -> PromptedImages:
    backbone = setup.backbone
    features = [torch.empty(0, backbone.embed_dim, device=backbone.device)]
    attention = [torch.empty(0, len(ctx), device=backbone.device)]
    for rows in torch.arange(len(split)).split(batch) if len(split) else ():
        result = prompted_images(setup, split, rows, ctx, deep)
        features.append(result.features)
        attention.append(result.attention)
    return PromptedImages(torch.cat(features), torch.cat(attention))


def _size(images: PromptedImages) -> int:
    return images.features.nbytes + images.attention.nbytes
