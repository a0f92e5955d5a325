"""An open_clip model of the user's is the backbone that its name would load."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from PIL import Image
from torchvision import transforms

from promptfed.backbones.objects import backbone_of
from promptfed.backbones.openclip import OpenClipBackbone
from promptfed.errors import BackboneError, ConfigError


@pytest.fixture
def parts(checkpoint: Callable[[str, str], Path]) -> tuple[Any, Any, Any, Any]:
    """Model, tokenizer, transform of evaluation, transform of training."""
    path = str(checkpoint("small-clip", ".safetensors"))
    model, train, evaluation = open_clip.create_model_and_transforms("small-clip", pretrained=path)
    return model, open_clip.get_tokenizer("small-clip"), evaluation, train


def test_it_is_the_same_model_as_by_name(parts: tuple[Any, Any, Any, Any], small: OpenClipBackbone) -> None:
    model, tokenizer, transform, _ = parts
    for given in ((model, tokenizer), (model, tokenizer, transform), (model, transform, tokenizer)):
        found = backbone_of(given)
        assert found.fingerprint == small.fingerprint
        assert found.name == "object:CLIP"
    assert torch.equal(found.encode_text(["a cat"]), small.encode_text(["a cat"]))
    assert not any(parameter.requires_grad for parameter in model.parameters()), "frozen in place"
    assert backbone_of(found) is found


def test_another_transform_is_another_model(parts: tuple[Any, Any, Any, Any], small: OpenClipBackbone) -> None:
    model, tokenizer, transform, train = parts
    dark = transforms.Compose([transform, lambda pixels: pixels / 2])
    found = backbone_of((model, tokenizer, dark))
    assert found.fingerprint != small.fingerprint
    picture = Image.radial_gradient("L").convert("RGB")
    assert torch.equal(found.preprocess(picture), small.preprocess(picture) / 2)
    with pytest.raises(BackboneError, match="that of evaluation, not of training"):
        backbone_of((model, tokenizer, train))
    with pytest.raises(BackboneError, match="makes no tensor of an image"):
        backbone_of((model, tokenizer, lambda image: "pixels"))


def test_what_is_none_is_one_line(parts: tuple[Any, Any, Any, Any]) -> None:
    model, tokenizer, *_ = parts
    for given in (model, (tokenizer,), (model, model, tokenizer), "tiny", {}):
        with pytest.raises(ConfigError, match="promptfed Backbone"):
            backbone_of(given)
