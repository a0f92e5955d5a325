"""Every test here runs on the CPU, on a pretended device that is never absent, and on a card where there is one.

``pytest tests/gpu -m gpu`` takes the card alone; without one these are skipped.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch

from promptfed.agreement import Agreement
from promptfed.backbones.dual_encoder import DualEncoder
from promptfed.backbones.features import FeatureCache, FeatureStore
from promptfed.backbones.openclip import OpenClipBackbone
from promptfed.setup import Setup
from promptfed.types import FederatedTask

DEVICES = (
    pytest.param("cpu", marks=pytest.mark.slow),
    "pretended",
    pytest.param("cuda", marks=pytest.mark.gpu),
)


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> Iterator[str]:
    """The word to load a model with."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("torch sees no CUDA device")
    if request.param != "pretended":
        yield request.param
        return
    with _pretend_device().pretended():
        yield "cuda"


@cache
def _pretend_device() -> Any:
    """The module beside this file."""
    spec = importlib.util.spec_from_file_location("pretend_device", Path(__file__).with_name("pretend_device.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def _tokenizer() -> Any:
    return open_clip.tokenizer.SimpleTokenizer(context_length=32)


@pytest.fixture
def clip_on(toy_task: FederatedTask, tmp_path: Path) -> Callable[..., Setup]:
    """``clip_on("cuda")``: the same small CLIP with random weights, on a device."""

    def make(device: str, precision: str = "float32") -> Setup:
        text = {"context_length": 32, "vocab_size": 49408, "width": 20, "heads": 2, "layers": 3}
        image = {"image_size": 16, "patch_size": 8, "width": 16, "head_width": 8, "layers": 3}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(4)
            cast = {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(precision)
            model: Any = open_clip.CLIP(12, image, text, cast_dtype=cast)
        if cast is not None:
            open_clip.model.convert_weights_to_lp(model, cast)
        model.visual.preprocess_cfg = {"size": 16}
        backbone = OpenClipBackbone("small", model, _tokenizer(), device=device, precision=precision)
        store = FeatureStore(backbone, FeatureCache(tmp_path / device, 0))
        task = toy_task
        agreement = Agreement(classes=task.base_classes, templates=task.templates, rounds=2, seed=0, domains=DOMAINS)
        return Setup(DualEncoder(store), agreement)

    return make


DOMAINS = ("photo", "sketch", "photo")
"""Of the toy task's clients."""
