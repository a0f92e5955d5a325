"""Backbones whose image tower takes prompts, for the methods that need one: a toy and a small CLIP."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from promptfed.backbones.base import PromptedImages
from promptfed.backbones.features import FeatureCache, FeatureStore
from promptfed.backbones.openclip import OpenClipBackbone


@pytest.fixture
def promptable_setup(backbone, setup, tmp_path: Path):
    """``setup`` with visual prompts: an image attends to the tokens that resemble its colour, and they pull on it."""

    class Promptable(type(backbone)):
        vision_dim = 3
        vision_layers = 1
        abilities = frozenset({"visual prompts"})

        def encode_prompted_images(self, pixels: Tensor, ctx: Tensor, deep: Tensor | None = None) -> PromptedImages:
            colour = self.encode_images(pixels)
            attention = (5 * colour @ ctx.T).softmax(-1)
            return PromptedImages(colour + (attention @ ctx).tanh(), attention)

    promptable = Promptable()
    store = FeatureStore(promptable, FeatureCache(tmp_path / "promptable", limit_bytes=0))
    return replace(setup, backbone=promptable, features=store)


@pytest.fixture(scope="session")
def small_clip() -> OpenClipBackbone:
    """A real CLIP with random weights: both towers three blocks deep, so that prompts can be deep too."""
    import open_clip

    with torch.random.fork_rng():
        torch.manual_seed(4)
        model = open_clip.CLIP(
            12,
            {"image_size": 16, "patch_size": 8, "width": 16, "head_width": 8, "layers": 3},
            {"context_length": 32, "vocab_size": 49408, "width": 20, "heads": 2, "layers": 3},
        )
    model.visual.preprocess_cfg = {"size": 16}
    return OpenClipBackbone("small", model, open_clip.tokenizer.SimpleTokenizer(context_length=32))


@pytest.fixture
def clip_setup(small_clip: OpenClipBackbone, setup, tmp_path: Path):
    """``setup`` with the small CLIP."""
    return replace(
        setup,
        backbone=small_clip,
        features=FeatureStore(small_clip, FeatureCache(tmp_path / "clip", limit_bytes=0)),
    )
