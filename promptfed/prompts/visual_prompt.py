"""Images seen under a visual prompt: what every method shares that also prompts the image tower.

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
    """``n`` visual prompt tokens to start from, N(0, 0.02): ``(n, vision_dim)``, from the stream
    (seed, "visual prompt", *purpose)."""
    noise = torch_stream(setup.seed, "visual prompt", *purpose)
    return 0.02 * torch.randn(n, setup.backbone.vision_dim, generator=noise)


def prompted_images(
    setup: Setup, split: Split, rows: Tensor, ctx: Tensor, deep: Tensor | None = None
) -> PromptedImages:
    """Some ``rows`` of ``split``, seen with visual tokens ``ctx`` ``(n, vision_dim)`` and, deep, ``deep``
    ``(depth - 1, n, vision_dim)``; differentiable in both."""
    return setup.backbone.encode_prompted_images(setup.features.pixels(split, rows), ctx, deep)


def visual_features(
    setup: Setup, split: Split, ctx: Tensor, deep: Tensor | None = None, batch: int = 64
) -> PromptedImages:
    """All images of ``split`` under a fixed visual prompt, not normalised, no gradient; ``batch`` of them at a time.

    Kept in memory (up to KEPT_BYTES) by split and by the prompt's values, because the same images are asked about
    with several class lists. What is encoded counts as image calls; what is remembered does not.
    """
    prompt = PromptState({"ctx": ctx} if deep is None else {"ctx": ctx, "deep": deep})
    key = (ref(split), prompt.sha256(), batch)
    seen = _seen.setdefault(setup.features, OrderedDict())
    if key not in seen:
        # The caller may be in inference mode, whose tensors can never be trained on; these are kept for all callers.
        with torch.inference_mode(False), torch.no_grad():
            seen[key] = _encoded(setup, split, ctx, deep, batch)
        held = sum(_size(found) for found in seen.values())
        while held > KEPT_BYTES and len(seen) > 1:
            held -= _size(seen.popitem(last=False)[1])
    seen.move_to_end(key)
    return seen[key]


def _encoded(setup: Setup, split: Split, ctx: Tensor, deep: Tensor | None, batch: int) -> PromptedImages:
    backbone = setup.backbone
    features = [torch.empty(0, backbone.embed_dim, device=backbone.device)]
    attention = [torch.empty(0, len(ctx), device=backbone.device)]
    for rows in torch.arange(len(split)).split(batch) if len(split) else ():
        found = prompted_images(setup, split, rows, ctx, deep)
        features.append(found.features)
        attention.append(found.attention)
    return PromptedImages(torch.cat(features), torch.cat(attention))


def _size(found: PromptedImages) -> int:
    return found.features.nbytes + found.attention.nbytes
