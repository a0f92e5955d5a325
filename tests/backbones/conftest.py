"""A small open_clip model with random weights, its checkpoint on disk, and image items that count their loads."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from promptfed.backbones.openclip import OpenClipBackbone
from promptfed.backbones.openclip_loading import load_openclip
from promptfed.examples.base import ImageItem
from promptfed.types import Split

SMALL: dict[str, Any] = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def small_architectures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Architectures small-clip, small-custom and small-bidirectional, made known to open_clip; their folder."""
    folder = tmp_path_factory.mktemp("architectures")
    text = SMALL["text_cfg"]
    variants: dict[str, dict[str, Any]] = {
        "small-clip": SMALL,
        "small-custom": {**SMALL, "custom_text": True, "quick_gelu": True},
        "small-bidirectional": {**SMALL, "custom_text": True, "text_cfg": {**text, "no_causal_mask": True}},
        "small-cls": {**SMALL, "custom_text": True, "text_cfg": {**text, "embed_cls": True}},
        "small-last": {**SMALL, "custom_text": True, "text_cfg": {**text, "pool_type": "last"}},
    }
    for name, config in variants.items():
        (folder / f"{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder)
    return folder


@pytest.fixture(scope="session")
def checkpoint(small_architectures: Path) -> Callable[[str, str], Path]:
    """``checkpoint(architecture, suffix)``: a file with random weights of that architecture."""

    def make(architecture: str, suffix: str) -> Path:
        path = small_architectures / f"{architecture}{suffix}"
        if not path.exists():
            with torch.random.fork_rng():
                torch.manual_seed(1)
                model = open_clip.create_model(architecture, pretrained=None)
                with torch.no_grad():  # larger than the initialisation, so that features differ clearly
                    model.get_parameter("visual.proj").mul_(3)
            save_file(model.state_dict(), path) if suffix == ".safetensors" else torch.save(model.state_dict(), path)
        return path

    return make


@pytest.fixture(scope="session")
def small(checkpoint: Callable[[str, str], Path]) -> OpenClipBackbone:
    return load_openclip(f"open_clip:small-clip/{checkpoint('small-clip', '.safetensors')}")


@dataclass(frozen=True)
class NoiseItem(ImageItem):
    """A picture of noise; ``loads`` notes every decoding, ``broken`` ones cannot be decoded."""

    seed: int
    loads: list[int] = field(default_factory=list, compare=False)
    broken: bool = False

    @property
    def name(self) -> str:
        return f"noise {self.seed}"

    def content_id(self) -> str:
        return f"{self.seed:064x}"

    def load(self) -> Image.Image:
        self.loads.append(self.seed)
        if self.broken:
            raise OSError("image file is truncated")
        return Image.fromarray(np.random.default_rng(self.seed).integers(0, 256, (32, 32, 3), dtype=np.uint8))


@pytest.fixture
def noise() -> Callable[..., Split]:
    """``noise(1, 2, broken=[2])``: a split of noise pictures."""

    def make(*seeds: int, broken: tuple[int, ...] = ()) -> Split:
        items = tuple(NoiseItem(seed, broken=seed in broken) for seed in seeds)
        return Split(items, torch.zeros(len(items), dtype=torch.long))

    return make
